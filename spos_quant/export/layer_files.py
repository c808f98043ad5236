"""ONNX files of single layers, which `spos-quant latency` times.

The file of a quantized layer holds the QLinearConv or QGemm with Clips that `onnx-int8` writes, from input codes to
output codes. The file of a float layer holds a Conv or Gemm. Weights are random: no kernel's time depends on them.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from spos_quant.errors import ExportError
from spos_quant.export.integer.float_graph import Step
from spos_quant.export.integer.graph import Array, FloatLayer, IntegerGraph, Op, Quantize, QuantParams, Window
from spos_quant.export.integer.layers import integer_layer
from spos_quant.export.integer.onnx_writer import write_onnx_int8
from spos_quant.space.shapes import Geometry
from spos_quant.space.spec import Bits

_SCALE = 0.05
"""Scale of activations; it does not affect the latency."""


def layer_file(geometry: Geometry, weight_bits: Bits, act_bits: Bits) -> tuple[bytes, Array]:
    """An ONNX file that runs one layer, and an input for one image.

    Args:
        geometry: Kind and shapes of the layer.
        weight_bits: 1 to 8, or None for float.
        act_bits: Bits of the layer's input; None for float.

    Raises:
        ExportError: this kind of layer has no integer form, or only one of its operands is float.
    """
    if geometry.kind not in ("Conv2d", "Linear"):
        raise ExportError(f"a {geometry.kind} has no integer form: give a latency table of your own")
    if (weight_bits is None) != (act_bits is None):
        raise ExportError(
            f"a {geometry.kind} with weights at {weight_bits or 'float'} and inputs at {act_bits or 'float'} has no "
            "integer form: give a latency table of your own"
        )
    graph, images = _graph(geometry, weight_bits, act_bits)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        write_onnx_int8(graph, path, {})
        model = onnx.load(path)
    if weight_bits is not None:
        rng = np.random.default_rng(0)
        return _integer_part(model), rng.integers(0, 2 ** (act_bits or 8), images.shape).astype(np.uint8)
    serialized: bytes = model.SerializeToString()
    return serialized, images


def _graph(geometry: Geometry, weight_bits: Bits, act_bits: Bits) -> tuple[IntegerGraph, Array]:
    rng = np.random.default_rng(0)
    window, shape = _window(geometry), geometry.input
    images = rng.standard_normal((1, *shape)).astype(np.float32)
    if window is None:  # flatten all positions of a linear layer's input into rows
        shape = shape[-1:]
        images = images.reshape(-1, *shape)
    weight = rng.standard_normal(geometry.weight)
    bias = np.zeros(len(weight))
    if weight_bits is None or act_bits is None:
        layer: Op = FloatLayer(
            name="layer",
            inputs=("x",),
            output="y",
            weight=weight.astype(np.float32),
            bias=bias.astype(np.float32),
            window=window,
            groups=geometry.groups,
        )
        return IntegerGraph("x", shape, "y", (layer,)), images
    qmax = max(1, 2 ** (weight_bits - 1) - 1)
    attributes: dict[str, Any] = {
        "bits": weight_bits,
        "odd": weight_bits == 1,
        "weight": np.where(weight < 0, -1, 1) if weight_bits == 1 else np.clip(np.rint(weight * qmax / 2), -qmax, qmax),
        "scale": np.full(len(weight), 1 / qmax),
        "bias": bias,
        "window": window,
        "groups": geometry.groups,
    }
    codes = QuantParams(_SCALE, 0, 0, 2**act_bits - 1)
    # The output gets the bits of the input, as if the next layer had the same bits.
    fan_in = prod(geometry.weight[1:])
    output = QuantParams(float(np.float32(_SCALE * 2**act_bits * max(1.0, fan_in**0.5) / codes.qmax)), 0, 0, codes.qmax)
    layer = integer_layer(
        Step("layer", "layer", ["codes"], "y", attributes),
        codes,
        {"name": "layer", "inputs": ("codes",), "output": "y", "qparams": output, "limits": None},
    )
    ops = (Quantize(name="codes", inputs=("x",), output="codes", qparams=codes), layer)
    return IntegerGraph("x", shape, "y", ops), images


def _window(geometry: Geometry) -> Window | None:
    """Kernel, stride, padding and dilation; None for a linear layer."""
    if geometry.kind == "Linear":
        return None

    def pair(sizes: tuple[int, ...]) -> tuple[int, int]:
        return sizes[0], sizes[1]

    top, left, bottom, right = geometry.padding
    return Window(
        kernel=pair(geometry.weight[2:]),
        stride=pair(geometry.stride),
        padding=(top, left, bottom, right),
        dilation=pair(geometry.dilation),
    )


def _integer_part(model: Any) -> bytes:
    """The subgraph from the input codes of the layer to its output codes."""
    nodes = {node.op_type: node for node in model.graph.node}
    ends = (nodes.get("QLinearConv") or nodes["QGemm"]).input[0], nodes["DequantizeLinear"].input[0]
    for name in ends:
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    part = onnx.utils.Extractor(model).extract_model([ends[0]], [ends[1]])
    serialized: bytes = part.SerializeToString()
    return serialized
