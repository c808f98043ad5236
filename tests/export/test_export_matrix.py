"""Networks x weight bits x activation bits x formats: correct outputs and costs, or the documented refusal."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from export_cases import logits
from torch import nn

import spos_quant as sq
from spos_quant.backbones.build import build, space_of
from spos_quant.errors import ExportError
from spos_quant.export import api
from spos_quant.export.onnx_file import measure_onnx
from spos_quant.quant.static import is_quant_layer, read_bits, read_signed
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.calibrate import calibrate_clips
from spos_quant.train.evaluation import batch_norms

INPUTS = {
    "digits-resnet": (1, 8, 8),
    "resnet20": (3, 8, 8),
    "mobilenetv2-cifar": (3, 8, 8),
    "mobilenetv3-small": (3, 32, 32),
    "shufflenetv2": (3, 32, 32),
    "nasbench201": (3, 8, 8),
}
WEIGHT_BITS, ACT_BITS = (1, 2, 3, 4, 8), (1, 2, 4, 8)
OTHERS = ((1, 4), (2, 2), (3, 8), (4, 1), (8, 4))
"""Bit-widths of the larger networks: every weight and activation bit-width at least once."""
slow = pytest.mark.slow
CASES = [
    *(pytest.param("digits-resnet", *b, marks=() if b in OTHERS else slow) for b in product(WEIGHT_BITS, ACT_BITS)),
    *(pytest.param(n, *b, marks=slow) for n in INPUTS if n != "digits-resnet" for b in OTHERS),
]


@cache
def model(backbone: str, weight_bits: int, act_bits: int) -> nn.Module:
    """An untrained network with realistic statistics, biases and clips."""
    raw = {"name": "matrix", "backbone": backbone, "input": list(INPUTS[backbone]), "classes": 10}
    made = build(space_of(parse_spec({**raw, "axes": {"bits": [[weight_bits, act_bits]]}}, "matrix")), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norm in batch_norms(made):
            norm.running_mean.copy_(torch.randn(norm.bias.shape, generator=generator) * 0.1)
            norm.running_var.copy_(torch.rand(norm.bias.shape, generator=generator) + 0.5)
        for layer, *_ in made.quantized_layers():
            if layer.bias is not None:
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.3)
    calibrate_clips(made, images(backbone, 6, seed=9))
    return made.subnet((0,) * len(made.space.axes)).eval()


def images(backbone: str, n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, *INPUTS[backbone], generator=torch.Generator().manual_seed(seed))


def has_signed_binary(made: nn.Module) -> bool:
    layers = [layer for layer in made.modules() if is_quant_layer(layer)]
    return any(read_bits(layer)[1] == 1 and bool(read_signed(layer)) for layer in layers)


def same_cost(path, made: nn.Module, x: torch.Tensor) -> None:
    by_file, by_model = measure_onnx(path), sq.measure(made, x)
    for metric in ("bitops", "bitops_total", "macs", "weight_bytes"):
        assert by_file[metric] == by_model[metric], metric


@pytest.fixture(autouse=True)
def _ties_flip_labels_of_untrained_networks(monkeypatch):
    monkeypatch.setattr(api, "MIN_AGREEMENT", 0.7)


@pytest.mark.parametrize(("backbone", "weight_bits", "act_bits"), CASES)
def test_packed(tmp_path, backbone, weight_bits, act_bits):
    made, x = model(backbone, weight_bits, act_bits), images(backbone, 8, seed=3)
    paths = [tmp_path / f"{form}.onnx" for form in ("onnx-qcdq", "onnx-packed")]
    if has_signed_binary(made):
        for path in paths:
            with pytest.raises(ExportError, match="has a signed 1-bit input, which QCDQ cannot hold"):
                sq.export_onnx(made, x, path, format=path.stem)
        return
    for path in paths:
        sq.export_onnx(made, x, path, format=path.stem)
        same_cost(path, made, x)
    np.testing.assert_array_equal(logits(paths[1], x), logits(paths[0], x))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "weight_bits", "act_bits"), CASES)
def test_qonnx(tmp_path, backbone, weight_bits, act_bits):
    pytest.importorskip("qonnx")
    made, x = model(backbone, weight_bits, act_bits), images(backbone, 8, seed=3)
    report = sq.export_onnx(made, x, tmp_path / "m.onnx", format="qonnx")
    assert report["agreement"] >= 0.7
    same_cost(tmp_path / "m.onnx", made, x)
