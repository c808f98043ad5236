"""Converts each ONNX operator to operations of a `FloatGraph`. A new operator needs one more function here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from spos_quant.errors import ExportError
from spos_quant.export.integer.float_graph import FloatGraph
from spos_quant.export.integer.graph import QuantParams
from spos_quant.export.integer.qcdq_reader import Handler, Reader, attributes, where, window_of

_HANDLERS: dict[str, Handler] = {}


def _on(*types: str) -> Callable[[Handler], Handler]:
    def put(handler: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(types, handler))
        return handler

    return put


@_on("DequantizeLinear")
def _quantizer(reader: Reader, node: Any) -> None:
    clip: Any = reader.made.get(node.input[0])
    clipped = clip is not None and clip.op_type == "Clip"
    quantize = reader.made.get(clip.input[0]) if clipped else clip
    if quantize is None or quantize.op_type != "QuantizeLinear":
        raise ExportError(f"{where(node)}: an activation that is dequantized but never quantized")
    zero = reader.value(quantize.input[2]) if len(quantize.input) > 2 else np.zeros((), np.uint8)
    scale = np.ravel(reader.value(quantize.input[1]))
    if scale.size != 1:
        raise ExportError(f"{where(node)}: its input has a scale per channel; expected one scale per tensor")
    dtype_range = (np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max)
    qmin, qmax = (int(reader.value(name)) for name in clip.input[1:3]) if clipped else dtype_range
    # Integer graphs hold unsigned codes: shift qmin to 0.
    qparams = QuantParams(float(scale[0]), int(np.ravel(zero)[0]) - qmin, 0, qmax - qmin)
    reader.add("quantize", node, quantize.input[0], qparams=qparams)


@_on("Conv")
def _conv(reader: Reader, node: Any) -> None:
    given = attributes(node)
    window = window_of(node, list(given["kernel_shape"]))
    bias = node.input[2] if len(node.input) > 2 else None
    reader.layer(node, bias=bias, window=window, groups=int(given.get("group", 1)))


@_on("Gemm", "MatMul")
def _linear(reader: Reader, node: Any) -> None:
    given = attributes(node)
    unusual = given.get("alpha", 1) != 1 or given.get("beta", 1) != 1 or given.get("transA", 0)
    if unusual or len(reader.shapes.get(node.input[0], ())) != 2:
        raise ExportError(
            f"{where(node)}: a linear layer on sequences has no integer form here; use --format onnx-qcdq"
        )
    bias = node.input[2] if len(node.input) > 2 else None
    reader.layer(node, bias=bias, window=None, turned=not given.get("transB", 0))


@_on("BatchNormalization")
def _batch_norm(reader: Reader, node: Any) -> None:
    gamma, beta, mean, var = (np.ravel(reader.value(name)).astype(np.float64) for name in node.input[1:5])
    factor = gamma / np.sqrt(var + attributes(node).get("epsilon", 1e-5))
    reader.affine(node, node.input[0], factor, beta - mean * factor)


@_on("Add", "Mul", "Sub", "Div")
def _arithmetic(reader: Reader, node: Any) -> None:
    a, b = node.input
    values = [reader.constant(name) for name in (a, b)]
    if values[0] is None and values[1] is None:
        kinds = {"Add": "add", "Mul": "multiply"}
        if node.op_type not in kinds:
            raise ExportError(f"{where(node)}: operator {node.op_type} of two tensors has no integer form")
        return reader.add(kinds[node.op_type], node, a, b)
    image, value = (a, values[1]) if values[0] is None else (b, values[0])
    assert value is not None
    rank = len(reader.shapes.get(node.output[0], ()))
    per_channel = (
        value.size == 1 or (value.ndim == rank and value.size == value.shape[1]) or (rank == 2 and value.ndim == 1)
    )
    if not per_channel or (values[0] is not None and node.op_type in ("Sub", "Div")):
        raise ExportError(f"{where(node)}: operator {node.op_type} with a constant that is not per channel")
    flat = np.ravel(value).astype(np.float64)
    factor = {"Mul": flat, "Div": 1 / flat if node.op_type == "Div" else flat}.get(node.op_type, np.ones(1))
    shift = {"Add": flat, "Sub": -flat}.get(node.op_type, np.zeros(1))
    reader.affine(node, image, factor, shift)


@_on("Relu")
def _relu(reader: Reader, node: Any) -> None:
    reader.add("limits", node, node.input[0], limits=(0.0, np.inf))


@_on("Clip")
def _clip(reader: Reader, node: Any) -> None:
    ends = [reader.constant(name) if name else None for name in (*node.input[1:], "", "")[:2]]
    low, high = (default if end is None else float(end) for end, default in zip(ends, (-np.inf, np.inf), strict=True))
    reader.add("limits", node, node.input[0], limits=(low, high))


@_on("HardSwish", "HardSigmoid", "Sigmoid", "LeakyRelu", "Tanh", "Elu", "Softplus")
def _function(reader: Reader, node: Any) -> None:
    defaults = {"HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "LeakyRelu": {"alpha": 0.01}, "Elu": {"alpha": 1.0}}
    given = {**defaults.get(node.op_type, {}), **attributes(node)}
    parameters = tuple(float(given[key]) for key in sorted(given))
    reader.add("function", node, node.input[0], function=node.op_type, parameters=parameters)


@_on("MaxPool")
def _max_pool(reader: Reader, node: Any) -> None:
    reader.add("maxpool", node, node.input[0], window=window_of(node, list(attributes(node)["kernel_shape"])))


@_on("AveragePool")
def _average_pool(reader: Reader, node: Any) -> None:
    given = attributes(node)
    window = window_of(node, list(given["kernel_shape"]))
    reader.add("avgpool", node, node.input[0], window=window, counts_padding=bool(given.get("count_include_pad", 0)))


@_on("GlobalAveragePool", "ReduceMean")
def _mean(reader: Reader, node: Any) -> None:
    keeps = bool(attributes(node).get("keepdims", 1))
    rank = len(reader.shapes.get(node.input[0], ()))
    axes = [2, 3] if node.op_type == "GlobalAveragePool" else reader.ints(node, 1, "axes") or []
    if rank != 4 or sorted(axis % rank for axis in axes) != [2, 3]:
        raise ExportError(f"{where(node)}: a mean over other axes than height and width has no integer form")
    reader.add("mean", node, node.input[0], keeps=keeps)


@_on("Concat")
def _concat(reader: Reader, node: Any) -> None:
    rank = len(reader.shapes.get(node.output[0], ()))
    reader.add("concat", node, *node.input, axis=int(attributes(node)["axis"]) % max(rank, 1))


@_on("Split")
def _split(reader: Reader, node: Any) -> None:
    axis = int(attributes(node).get("axis", 0)) % len(reader.shapes[node.input[0]])
    start = 0
    for output in node.output:
        stop = start + reader.shapes[output][axis]
        reader.add("slice", node, node.input[0], output=output, axis=axis, start=start, stop=stop, step=1)
        start = stop


@_on("Slice")
def _slice(reader: Reader, node: Any) -> None:
    starts, stops = (reader.ints(node, place, name) or [] for place, name in ((1, "starts"), (2, "ends")))
    axes = reader.ints(node, 3, "axes") or list(range(len(starts)))
    steps = reader.ints(node, 4, "steps") or [1] * len(starts)
    parts = list(_real_slices(reader.shapes[node.input[0]], axes, starts, stops, steps))
    if not parts:
        reader.same[node.output[0]] = reader.real(node.input[0])
    read = node.input[0]
    for i, (axis, start, stop, step) in enumerate(parts):
        made = node.output[0] if i == len(parts) - 1 else f"{node.output[0]}.{i}"
        reader.add("slice", node, read, output=made, axis=axis, start=start, stop=stop, step=step)
        read = made


def _real_slices(shape: tuple[int, ...], axes: list[int], *given: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """The slices that do not keep a whole axis, with bounds normalized to the shape."""
    for axis, start, stop, step in zip(axes, *given, strict=True):
        size = shape[axis]
        begin, end, stride = slice(start, stop, step).indices(size)
        if (begin, end, stride) != (0, size, 1):
            yield axis % len(shape), begin, end, stride


@_on("Pad")
def _pad(reader: Reader, node: Any) -> None:
    value = reader.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    pads = reader.ints(node, 1, "pads") or []
    if attributes(node).get("mode", b"constant") != b"constant" or np.any(value) or min(pads) < 0:
        raise ExportError(f"{where(node)}: padding by anything but zeros has no integer form")
    half = len(pads) // 2
    reader.add("pad", node, node.input[0], before=tuple(pads[:half]), after=tuple(pads[half:]))


@_on("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(reader: Reader, node: Any) -> None:
    shape = reader.shapes.get(node.output[0], ())
    if not shape or shape[0] != 1 or 0 in shape:
        raise ExportError(f"{where(node)}: {node.op_type} to an unknown shape, or to one that mixes images")
    reader.add("reshape", node, node.input[0], shape=shape[1:])


@_on("Transpose")
def _transpose(reader: Reader, node: Any) -> None:
    order = tuple(attributes(node)["perm"])
    if order[0] != 0:
        raise ExportError(f"{where(node)}: the batch axis is moved")
    reader.add("transpose", node, node.input[0], order=order)


@_on("Identity", "Max", "Dropout")
def _same(reader: Reader, node: Any) -> None:
    if len(node.input) != 1:
        raise ExportError(f"{where(node)}: operator {node.op_type} of several tensors has no integer form")
    reader.same[node.output[0]] = reader.real(node.input[0])


def read_float_graph(model: Any) -> FloatGraph:
    """Reads a QCDQ model.

    Raises:
        ExportError: an operator has no integer form; the message names the module.
    """
    return Reader(model).read(_HANDLERS)
