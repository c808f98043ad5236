"""Files of single layers: they hold the kernels of whole networks, and their latency is that of the layer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from spos_quant.cost.latency import LayerCall
from spos_quant.errors import ExportError
from spos_quant.export import latency
from spos_quant.export.layer_files import layer_file
from spos_quant.export.runtime import open_session
from spos_quant.space.shapes import Geometry

CONV = Geometry("Conv2d", (8, 9, 7), (12, 4, 3, 3), (2, 1), (1, 0, 1, 2), (1, 2), 2)
DEPTHWISE = Geometry("Conv2d", (6, 5, 5), (6, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 6)
LINEAR = Geometry("Linear", (10,), (4, 10))
TOKENS = Geometry("Linear", (5, 10), (4, 10))
OUTPUT_SHAPES = {CONV: (1, 12, 5, 5), DEPTHWISE: (1, 6, 5, 5), LINEAR: (1, 4), TOKENS: (5, 4)}


@pytest.mark.parametrize("geometry", OUTPUT_SHAPES, ids=str)
@pytest.mark.parametrize(("weight_bits", "act_bits"), [(1, 1), (1, 8), (2, 2), (3, 5), (4, 4), (8, 2), (8, 8)])
def test_a_quantized_layer_is_one_kernel_between_codes(geometry, weight_bits, act_bits):
    file, x = layer_file(geometry, weight_bits, act_bits)
    kinds = [node.op_type for node in onnx.load_from_string(file).graph.node]
    assert sum(kind in ("QLinearConv", "QGemm") for kind in kinds) == 1
    assert set(kinds) <= {"QLinearConv", "QGemm", "Clip", "Cast", "Mul"}  # Cast and Mul of constants
    assert x.dtype == np.uint8
    assert x.max() <= 2**act_bits - 1
    (y,) = open_session(file, 1).run(None, {onnx.load_from_string(file).graph.input[0].name: x})
    assert (y.dtype, y.shape) == (np.uint8, OUTPUT_SHAPES[geometry])
    assert y.max() <= 2**act_bits - 1


@pytest.mark.parametrize("geometry", OUTPUT_SHAPES, ids=str)
def test_a_float_layer_is_one_kernel_between_float_tensors(geometry):
    file, x = layer_file(geometry, None, None)
    kinds = {node.op_type for node in onnx.load_from_string(file).graph.node} - {"Identity"}
    assert kinds == {"Gemm" if geometry.kind == "Linear" else "Conv"}
    (y,) = open_session(file, 1).run(None, {onnx.load_from_string(file).graph.input[0].name: x})
    assert (y.dtype, y.shape) == (np.float32, OUTPUT_SHAPES[geometry])


def test_a_latency_is_the_median_minus_the_call_overhead(monkeypatch):
    """With a fake clock: the overhead is 2 us, the layers take 5 and 7 us, and every call takes 900 us in one round."""
    now, seconds = 0.0, {}

    class Session:
        def __init__(self, file, threads):
            assert threads == 3
            self.calls, self.number = 0, len(seconds)
            seconds[self.number] = (2e-6, 5e-6, 7e-6)[self.number]

        def get_inputs(self):
            return [SimpleNamespace(name="x")]

        def run(self, outputs, given):
            nonlocal now
            self.calls += 1
            now += 900e-6 if self.calls == 5 else seconds[self.number]

    monkeypatch.setattr(latency, "open_session", Session)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now)
    calls = [LayerCall(CONV, 4, 4), LayerCall(LINEAR, None, None)]
    assert latency.layer_latencies(calls, threads=3, rounds=5) == [3_000, 5_000]


@pytest.mark.parametrize(
    ("geometry", "bits", "message"),
    [
        (Geometry("Conv1d", (8, 9), (4, 8, 3), (1,), (0, 0), (1,)), (4, 4), "a Conv1d has no integer form"),
        (LINEAR, (4, None), "weights at 4 and inputs at float has no integer form"),
        (LINEAR, (None, 4), "weights at float and inputs at 4 has no integer form"),
    ],
)
def test_layers_without_integer_form_are_refused(geometry, bits, message):
    with pytest.raises(ExportError, match=message):
        layer_file(geometry, *bits)
