"""Latency of exported files in onnxruntime against the float network's file.

Claim: the integer-only file (`onnx-int8`) takes at most 1 / 1.7 of the float file's time (ResNet-20, 32 images of
32 x 32) and at most a third (ResNet-18, 16 images of 64 x 64, one of 224 x 224). onnxruntime has no kernels below 8
bits: there, fewer bits only reduce size and memory traffic; BitOps matter on hardware with low-bit arithmetic. Files
with fake quantization (`onnx-qcdq`, and `onnx-packed`, which unpacks its weights) are slower than float, because
onnxruntime fuses little of it.
Lower bound: none. The figures depend on the processor's 8-bit instructions; the targets are for VNNI. If weights and
inputs both have 8 bits, weights are stored unsigned, so that 16-bit sums overflow on no processor (decision record
0026); that costs the gain of the 8-bit instructions.

    pytest benchmarks/test_exported_file.py --benchmark-only -n0
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from networks import TINY, network

import spos_quant as sq
from spos_quant.export import api
from spos_quant.train.evaluation import recalibrate

SHAPES = {
    "resnet20 at 32": ("resnet20", 32, 32),
    "resnet18 at 64": ("resnet18", 64, 16),
    "resnet18 at 224": ("resnet18", 224, 1),
}
"""Network, side of the images, batch size."""
TARGETS = {"resnet20 at 32": 1 / 1.7, "resnet18 at 64": 1 / 3, "resnet18 at 224": 1 / 3}
FORMATS = {"onnx-int8": 8, "onnx-qcdq": 4, "onnx-packed": 4}
CASES = [(s, f, 4 if s.startswith("resnet18") else b) for s in SHAPES for f, b in FORMATS.items()]
"""Name, format, bits. The space of ResNet-18 has at most 4 bits; onnxruntime computes with 8 in any case."""
FEWER = [("resnet20 at 32", "onnx-int8", bits) for bits in (2, 4)]


@pytest.fixture(autouse=True)
def _no_parity_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of untrained networks nearly tie, so rounding changes labels."""
    monkeypatch.setattr(api, "MIN_AGREEMENT", 0.0)


@pytest.mark.parametrize(("shape", "form", "bits"), [*CASES, *FEWER])
def test_file(against: Callable[..., float], tiny: bool, tmp_path: Path, shape: str, form: str, bits: int) -> None:
    case, *size = SHAPES[shape]
    side, count = (32, TINY) if tiny else size
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    files = {"ours": (network(case, "subnet", bits), form), "float": (network(case, "float"), "onnx")}
    calls = {}
    for name, (model, its) in files.items():
        recalibrate(model, [x])  # the statistics of an untrained network do not fit the images
        path = tmp_path / f"{name}.onnx"
        sq.export_onnx(model, x, path, format=its)
        calls[name] = caller(path, x.numpy())
    against(calls["ours"], calls["float"], "float file", round(TARGETS[shape], 2) if form == "onnx-int8" else None)


@pytest.mark.parametrize(("form", "bits"), FORMATS.items())
def test_export(seconds: Callable[..., None], tiny: bool, tmp_path: Path, form: str, bits: int) -> None:
    """Writing the file, including its parity check on the example images."""
    model, x = network("resnet20", "subnet", bits), torch.randn(TINY if tiny else 32, 3, 32, 32)
    recalibrate(model, [x])
    seconds(lambda: sq.export_onnx(model, x, tmp_path / "made.onnx", format=form))


def caller(path: Path, x: np.ndarray) -> Callable[[], object]:
    """A call of a file on one thread with all graph optimizations of onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, given)
