"""One layer as an ONNX file: what `spos-quant latency` times.

A quantized layer is the QLinearConv or QGemm, with the Clips, that `onnx-int8` writes for it, between two tensors of
codes; a float one a Conv or Gemm between real numbers. Weights are random, since no kernel's time depends on them.
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

_STEP = 0.05
"""Of activations; no time depends on it."""


def layer_file(geometry: Geometry, weight_bits: Bits, act_bits: Bits) -> tuple[bytes, Array]:
    """An ONNX file that runs one layer, and an input for it of one image.

    Args:
        geometry: The layer.
        weight_bits: 1 to 8, or None for float.
        act_bits: Of its input; None for float.

    Raises:
        ExportError: a kind of layer that has no integer form, or only one float operand.
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
        return _alone(model), rng.integers(0, 2 ** (act_bits or 8), images.shape).astype(np.uint8)
    made: bytes = model.SerializeToString()
    return made, images


def _graph(geometry: Geometry, weight_bits: Bits, act_bits: Bits) -> tuple[IntegerGraph, Array]:
    rng = np.random.default_rng(0)
    window, shape = _window(geometry), geometry.input
    images = rng.standard_normal((1, *shape)).astype(np.float32)
    if window is None:  # every position of a linear layer is a row
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
    most = max(1, 2 ** (weight_bits - 1) - 1)
    attributes: dict[str, Any] = {
        "bits": weight_bits,
        "odd": weight_bits == 1,
        "weight": np.where(weight < 0, -1, 1) if weight_bits == 1 else np.clip(np.rint(weight * most / 2), -most, most),
        "scale": np.full(len(weight), 1 / most),
        "bias": bias,
        "window": window,
        "groups": geometry.groups,
    }
    codes = QuantParams(_STEP, 0, 0, 2**act_bits - 1)
    # What it gives is taken to have the bits of what it reads, as where neighbours have equal bits.
    fan_in = prod(geometry.weight[1:])
    output = QuantParams(float(np.float32(_STEP * 2**act_bits * max(1.0, fan_in**0.5) / codes.qmax)), 0, 0, codes.qmax)
    layer = integer_layer(
        Step("layer", "layer", ["codes"], "y", attributes),
        codes,
        {"name": "layer", "inputs": ("codes",), "output": "y", "qparams": output, "limits": None},
    )
    ops = (Quantize(name="codes", inputs=("x",), output="codes", qparams=codes), layer)
    return IntegerGraph("x", shape, "y", ops), images


def _window(geometry: Geometry) -> Window | None:
    """How the kernel moves; None for a linear layer."""
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


def _alone(model: Any) -> bytes:
    """The part of a file from the codes that its layer reads to those that it gives."""
    nodes = {node.op_type: node for node in model.graph.node}
    ends = (nodes.get("QLinearConv") or nodes["QGemm"]).input[0], nodes["DequantizeLinear"].input[0]
    for name in ends:
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    part = onnx.utils.Extractor(model).extract_model([ends[0]], [ends[1]])
    kept: bytes = part.SerializeToString()
    return kept
