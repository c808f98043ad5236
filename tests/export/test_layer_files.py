"""One layer as a file: it holds the kernels that whole networks get, and its time is that of the layer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from spos_quant.cost.latency import LayerCall
from spos_quant.errors import ExportError
from spos_quant.export.latency import layer_latencies
from spos_quant.export.layer_files import layer_file
from spos_quant.export.runtime import open_session
from spos_quant.space.outline import Geometry

CONV = Geometry("Conv2d", (8, 9, 7), (12, 4, 3, 3), (2, 1), (1, 0, 1, 2), (1, 2), 2)
DEPTHWISE = Geometry("Conv2d", (6, 5, 5), (6, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 6)
LINEAR = Geometry("Linear", (10,), (4, 10))
TOKENS = Geometry("Linear", (5, 10), (4, 10))
GIVES = {CONV: (1, 12, 5, 5), DEPTHWISE: (1, 6, 5, 5), LINEAR: (1, 4), TOKENS: (5, 4)}


@pytest.mark.parametrize("geometry", GIVES, ids=str)
@pytest.mark.parametrize(("weight_bits", "act_bits"), [(1, 1), (1, 8), (2, 2), (3, 5), (4, 4), (8, 2), (8, 8)])
def test_a_quantized_layer_is_one_kernel_between_codes(geometry, weight_bits, act_bits):
    file, x = layer_file(geometry, weight_bits, act_bits)
    kinds = [node.op_type for node in onnx.load_from_string(file).graph.node]
    assert sum(kind in ("QLinearConv", "QGemm") for kind in kinds) == 1
    assert set(kinds) <= {"QLinearConv", "QGemm", "Clip", "Cast", "Mul"}  # the latter two of constants
    assert x.dtype == np.uint8
    assert x.max() <= 2**act_bits - 1
    (y,) = open_session(file, 1).run(None, {onnx.load_from_string(file).graph.input[0].name: x})
    assert (y.dtype, y.shape) == (np.uint8, GIVES[geometry])
    assert y.max() <= 2**act_bits - 1


@pytest.mark.parametrize("geometry", GIVES, ids=str)
def test_a_float_layer_is_one_kernel_between_numbers(geometry):
    file, x = layer_file(geometry, None, None)
    kinds = {node.op_type for node in onnx.load_from_string(file).graph.node} - {"Identity"}
    assert kinds == {"Gemm" if geometry.kind == "Linear" else "Conv"}
    (y,) = open_session(file, 1).run(None, {onnx.load_from_string(file).graph.input[0].name: x})
    assert (y.dtype, y.shape) == (np.float32, GIVES[geometry])


def test_a_layer_of_many_more_multiply_adds_takes_longer():
    """That what is timed is the layer: 256 times the work, an order of magnitude and more."""
    small = LayerCall(Geometry("Conv2d", (8, 8, 8), (8, 8, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 4, 4)
    large = LayerCall(Geometry("Conv2d", (32, 32, 32), (32, 32, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 4, 4)
    found = layer_latencies([small, large], rounds=5)
    assert found[1] > 10 * found[0] > 0


@pytest.mark.parametrize(
    ("geometry", "bits", "message"),
    [
        (Geometry("Conv1d", (8, 9), (4, 8, 3), (1,), (0, 0), (1,)), (4, 4), "a Conv1d has no integer form"),
        (LINEAR, (4, None), "weights at 4 and inputs at float has no integer form"),
        (LINEAR, (None, 4), "weights at float and inputs at 4 has no integer form"),
    ],
)
def test_what_has_no_integer_form(geometry, bits, message):
    with pytest.raises(ExportError, match=message):
        layer_file(geometry, *bits)
