"""An exported file in onnxruntime against the float network's file.

Claim: the pure integer file (`onnx-int8`) takes at most 1 / 1.7 of the float file's time (ResNet-20, 32 images of
32 x 32) and at most a third (ResNet-18, 16 images of 64 x 64, one of 224 x 224). onnxruntime has no kernels below 8
bits: there fewer bits buy size and memory traffic; BitOps pay on hardware that has them. Files that keep fake
quantization (`onnx-qcdq`, and `onnx-packed`, which unpacks its weights) are slower than float: little of it is fused.
Floor: none; the processor's 8-bit instructions decide, and VNNI is what the targets were set for. Where weights and
inputs both have 8 bits, weights are stored unsigned, so that no processor's 16-bit sums overflow (decision record
0026); that costs what 8-bit instructions gain.

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
"""Network, side of the images, images of a call."""
TARGETS = {"resnet20 at 32": 1 / 1.7, "resnet18 at 64": 1 / 3, "resnet18 at 224": 1 / 3}
FORMATS = {"onnx-int8": 8, "onnx-qcdq": 4, "onnx-packed": 4}
CASES = [(s, f, 4 if s.startswith("resnet18") else b) for s in SHAPES for f, b in FORMATS.items()]
"""The space of ResNet-18 ends at 4 bits; onnxruntime computes with 8 in either case."""
FEWER = [("resnet20 at 32", "onnx-int8", bits) for bits in (2, 4)]


@pytest.fixture(autouse=True)
def _time_is_measured_not_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that nobody trained answer near ties, where a rounding flips a label."""
    monkeypatch.setattr(api, "LEAST_AGREEMENT", 0.0)


@pytest.mark.parametrize(("shape", "form", "bits"), [*CASES, *FEWER])
def test_file(against: Callable[..., float], tiny: bool, tmp_path: Path, shape: str, form: str, bits: int) -> None:
    case, *size = SHAPES[shape]
    side, count = (32, TINY) if tiny else size
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    files = {"ours": (network(case, "subnet", bits), form), "float": (network(case, "float"), "onnx")}
    calls = {}
    for name, (model, its) in files.items():
        recalibrate(model, [x])  # statistics that were never trained say nothing of these images
        path = tmp_path / f"{name}.onnx"
        sq.export_onnx(model, x, path, format=its)
        calls[name] = caller(path, x.numpy())
    against(calls["ours"], calls["float"], "float file", round(TARGETS[shape], 2) if form == "onnx-int8" else None)


@pytest.mark.parametrize(("form", "bits"), FORMATS.items())
def test_export(seconds: Callable[..., None], tiny: bool, tmp_path: Path, form: str, bits: int) -> None:
    """Writing the file, and asking it about the images that it was made with."""
    model, x = network("resnet20", "subnet", bits), torch.randn(TINY if tiny else 32, 3, 32, 32)
    recalibrate(model, [x])
    seconds(lambda: sq.export_onnx(model, x, tmp_path / "made.onnx", format=form))


def caller(path: Path, x: np.ndarray) -> Callable[[], object]:
    """A call of a file by one thread, with all that onnxruntime knows to make of its graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, given)
