"""A QCDQ file as a list of steps: layers with their integers, quantizers with their grids, everything else by kind.

The file is what `spos_quant.quant.onnx` writes: it already holds exact integers, and there is no second place that knows
modules of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from spos_quant.errors import ExportError
from spos_quant.export.integer.graph import Array, Grid, Window
from spos_quant.export.onnx_file import layer_name

MOVES = ("maxpool", "concat", "slice", "pad", "reshape", "transpose")
"""Kinds that change no value, so that what goes in and what comes out have one grid."""
_SHAPES = ("Shape", "Gather", "Unsqueeze", "Squeeze", "Concat", "Cast", "Slice", "Reshape", "Transpose", "Mul", "Add",
           "Sub", "Div", "ConstantOfShape", "Range", "Identity")  # fmt: skip
"""Operators that arithmetic on shapes is made of."""


@dataclass
class Step:
    """One operation on real tensors."""

    kind: str
    name: str
    inputs: list[str]
    output: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Steps:
    """A network as steps in order."""

    input: str
    shape: tuple[int, ...]
    output: str
    steps: list[Step]

    def users(self, tensor: str) -> list[Step]:
        """The steps that read a tensor."""
        return [step for step in self.steps if tensor in step.inputs]

    def maker(self, tensor: str) -> Step | None:
        """The step that makes a tensor; None for the images."""
        return next((step for step in self.steps if step.output == tensor), None)


def read_steps(model: Any) -> Steps:
    """The steps of a QCDQ model.

    Raises:
        ExportError: an operator that has no integer form; it names the module.
    """
    return _Reader(model).read()


class _Reader:
    """Goes over the nodes of a graph once."""

    def __init__(self, model: Any) -> None:
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        (images,) = fixed.graph.input
        images.type.tensor_type.shape.dim[0].Clear()
        images.type.tensor_type.shape.dim[0].dim_value = 1
        (logits,) = fixed.graph.output
        logits.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
        self.graph = inferred.graph
        self.made = {output: node for node in self.graph.node for output in node.output}
        self.known = {item.name: numpy_helper.to_array(item) for item in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.shapes = {
            item.name: tuple(d.dim_value for d in item.type.tensor_type.shape.dim)
            for item in (*self.graph.value_info, *self.graph.output, *self.graph.input)
        }
        self.same: dict[str, str] = {}
        """Tensors that are other tensors."""
        self.steps: list[Step] = []

    def read(self) -> Steps:
        for node in self.graph.node:
            if node.op_type == "Constant" or self.constant(node.output[0]) is not None or self._of_integers(node):
                continue
            handler = _HANDLERS.get(node.op_type)
            if handler is None:
                raise ExportError(
                    f"{_where(node)}: operator {node.op_type} has no integer form; use --format onnx-qcdq, or replace it"
                )
            handler(self, node)
        (images,), (logits,) = self.graph.input, self.graph.output
        return Steps(images.name, self.shapes[images.name][1:], self.real(logits.name), self.steps)

    def _of_integers(self, node: Any) -> bool:
        """Whether a node belongs to a quantizer's chain, which is read from its end."""
        if node.op_type == "QuantizeLinear":
            return True
        if node.op_type == "Clip":
            maker = self.made.get(node.input[0])
            return node.input[0] in self.known or (maker is not None and maker.op_type == "QuantizeLinear")
        return node.op_type in ("DequantizeLinear", "Transpose") and self._weight(node.output[0]) is not None

    def real(self, tensor: str) -> str:
        """The tensor that a tensor is."""
        while tensor in self.same:
            tensor = self.same[tensor]
        return tensor

    def add(self, kind: str, node: Any, *inputs: str, output: str | None = None, **facts: Any) -> None:
        read = [self.real(name) for name in inputs]
        self.steps.append(Step(kind, _name(node), read, output or node.output[0], facts))

    def affine(self, node: Any, tensor: str, factor: Array, shift: Array) -> None:
        """`factor * x + shift`, by channels or one for all."""
        shape = self.shapes.get(node.output[0], ())
        self.add("affine", node, tensor, factor=factor, shift=shift, shape=shape)

    def constant(self, tensor: str) -> Array | None:
        """The value of a tensor that depends on no image; None where it does, or is a dequantized weight."""
        if tensor in self.known:
            return self.known[tensor]
        node = self.made.get(tensor)
        if node is None or node.op_type not in _SHAPES:
            return None
        if node.op_type == "Shape":
            shape = self.shapes.get(node.input[0])
            return None if not shape else np.array(shape, dtype=np.int64)
        inputs = [self.constant(name) for name in node.input if name]
        if not inputs or any(value is None for value in inputs):
            return None
        self.known[tensor] = _evaluated(node, inputs)
        return self.known[tensor]

    def ints(self, node: Any, place: int, name: str) -> list[int] | None:
        """A list of whole numbers that newer operators take as an input and older ones as an attribute."""
        if len(node.input) > place and node.input[place]:
            value = self.constant(node.input[place])
            if value is None:
                raise ExportError(f"{_where(node)}: {name} of {node.op_type} depends on the image")
            return [int(v) for v in np.ravel(value)]
        found = _attributes(node).get(name)
        return None if found is None else [int(v) for v in found]

    # ---- weights

    def _weight(self, tensor: str) -> tuple[Array, Array | None, int | None, bool] | None:
        """A stored weight as the layer uses it: values, scale per output channel, bits, whether it has no zero."""
        turns = False
        node = self.made.get(tensor)
        while node is not None and node.op_type in ("Transpose", "Identity"):
            turns ^= node.op_type == "Transpose"
            tensor = node.input[0]
            node = self.made.get(tensor)
        stored = self.known.get(tensor)
        if stored is not None:
            return (stored.T if turns else stored), None, None, False
        if node is None or node.op_type != "DequantizeLinear":
            return None
        codes, clip = node.input[0], self.made.get(node.input[0])
        if clip is not None and clip.op_type == "Clip":
            codes = clip.input[0]
        values, scale = self.known.get(codes), self.known.get(node.input[1])
        if values is None or scale is None:
            return None
        if len(node.input) > 2 and np.any(self.known.get(node.input[2])):
            raise ExportError(f"{_where(node)}: a weight with a zero point; expected symmetric weights")
        if clip is not None and clip.op_type == "Clip":
            low, high = (int(self.known[name]) for name in clip.input[1:3])
            values, bits, odd = np.clip(values, low, high), max(1, (high - low).bit_length()), False
        else:  # without a zero: -1 and 1 are 1 bit, all four are 2
            odd = set(np.unique(values).tolist()) <= {-3, -1, 1, 3}
            bits = int(np.abs(values).max()).bit_length() if odd else 8
        return (values.T if turns else values), np.ravel(scale).astype(np.float64), bits, odd

    def layer(self, node: Any, *, bias: str | None, window: Window | None, groups: int = 1, turned: bool = False) -> None:
        found = self._weight(node.input[1])
        if found is None:
            raise ExportError(f"{_where(node)}: a product of two tensors that both depend on the image has no integer form")
        values, scale, bits, odd = found
        if turned:
            values = values.T
        outputs = len(values)
        scale = None if scale is None else np.broadcast_to(scale, outputs).copy()
        shift = np.zeros(outputs) if not bias else np.ravel(self.constant(bias)).astype(np.float64)
        facts = {"weight": values, "scale": scale, "bits": bits, "odd": odd, "bias": shift, "window": window}
        self.add("layer", node, node.input[0], **facts, groups=groups)


def _evaluated(node: Any, inputs: list[Any]) -> Array:
    from onnx.reference import ReferenceEvaluator

    names = [name for name in node.input if name]
    values = dict(zip(names, inputs, strict=True))
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in values.items()],
        [helper.make_empty_tensor_value_info(node.output[0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return np.asarray(ReferenceEvaluator(model).run(None, values)[0])


def _name(node: Any) -> str:
    return layer_name(node.name.partition("/input_quant/")[0] + "/x" if "/input_quant/" in node.name else node.name)


def _where(node: Any) -> str:
    return f"module {_name(node)!r}" if _name(node) else "the model itself"


def _attributes(node: Any) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _window(node: Any, kernel: list[int]) -> Window:
    given = _attributes(node)
    if len(kernel) != 2 or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise ExportError(f"{_where(node)}: {node.op_type} over {len(kernel)} dimensions; expected pictures")
    pairs = {name: tuple(given.get(key, (1, 1))) for name, key in (("stride", "strides"), ("dilation", "dilations"))}
    padding = tuple(given.get("pads", (0, 0, 0, 0)))
    return Window(kernel=(kernel[0], kernel[1]), padding=padding, ceil=bool(given.get("ceil_mode", 0)), **pairs)  # type: ignore[arg-type]


_HANDLERS: dict[str, Callable[[_Reader, Any], None]] = {}


def _on(*types: str) -> Callable[[Callable[[_Reader, Any], None]], Callable[[_Reader, Any], None]]:
    def put(handler: Callable[[_Reader, Any], None]) -> Callable[[_Reader, Any], None]:
        _HANDLERS.update(dict.fromkeys(types, handler))
        return handler

    return put


@_on("DequantizeLinear")
def _quantizer(reader: _Reader, node: Any) -> None:
    clip = quantize = reader.made.get(node.input[0])
    if clip is not None and clip.op_type == "Clip":
        quantize = reader.made.get(clip.input[0])
    if quantize is None or quantize.op_type != "QuantizeLinear":
        raise ExportError(f"{_where(node)}: an activation that is dequantized but never quantized")
    zero = reader.known.get(quantize.input[2]) if len(quantize.input) > 2 else np.uint8(0)
    scale = np.ravel(reader.known.get(quantize.input[1]))
    if scale.size != 1:
        raise ExportError(f"{_where(node)}: its input has a step per channel; expected one step per tensor")
    least, most = int(np.iinfo(zero.dtype).min), int(np.iinfo(zero.dtype).max)
    if clip is not quantize:
        least, most = (int(reader.known.get(name)) for name in clip.input[1:3])
    grid = Grid(float(scale[0]), int(np.ravel(zero)[0]) - least, 0, most - least)
    reader.add("quantize", node, quantize.input[0], grid=grid)


@_on("Conv")
def _conv(reader: _Reader, node: Any) -> None:
    given = _attributes(node)
    window = _window(node, list(given["kernel_shape"]))
    bias = node.input[2] if len(node.input) > 2 else None
    reader.layer(node, bias=bias, window=window, groups=int(given.get("group", 1)))


@_on("Gemm", "MatMul")
def _linear(reader: _Reader, node: Any) -> None:
    given = _attributes(node)
    odd = given.get("alpha", 1) != 1 or given.get("beta", 1) != 1 or given.get("transA", 0)
    if odd or len(reader.shapes.get(node.input[0], ())) != 2:
        raise ExportError(f"{_where(node)}: a linear layer on sequences has no integer form here; use --format onnx-qcdq")
    bias = node.input[2] if len(node.input) > 2 else None
    reader.layer(node, bias=bias, window=None, turned=not given.get("transB", 0))


@_on("BatchNormalization")
def _batch_norm(reader: _Reader, node: Any) -> None:
    gamma, beta, mean, var = (np.ravel(reader.constant(name)).astype(np.float64) for name in node.input[1:5])
    factor = gamma / np.sqrt(var + _attributes(node).get("epsilon", 1e-5))
    reader.affine(node, node.input[0], factor, beta - mean * factor)


@_on("Add", "Mul", "Sub", "Div")
def _arithmetic(reader: _Reader, node: Any) -> None:
    a, b = node.input
    values = [reader.constant(name) for name in (a, b)]
    if values[0] is None and values[1] is None:
        kinds = {"Add": "add", "Mul": "multiply"}
        if node.op_type not in kinds:
            raise ExportError(f"{_where(node)}: operator {node.op_type} of two tensors has no integer form")
        return reader.add(kinds[node.op_type], node, a, b)
    image, value = (a, values[1]) if values[0] is None else (b, values[0])
    assert value is not None
    rank = len(reader.shapes.get(node.output[0], ()))
    per_channel = value.size == 1 or (value.ndim == rank and value.size == value.shape[1]) or (rank == 2 and value.ndim == 1)
    if not per_channel or (values[0] is not None and node.op_type in ("Sub", "Div")):
        raise ExportError(f"{_where(node)}: operator {node.op_type} with a constant that is none per channel")
    flat = np.ravel(value).astype(np.float64)
    factor = {"Mul": flat, "Div": 1 / flat if node.op_type == "Div" else flat}.get(node.op_type, np.ones(1))
    shift = {"Add": flat, "Sub": -flat}.get(node.op_type, np.zeros(1))
    reader.affine(node, image, factor, shift)


@_on("Relu")
def _relu(reader: _Reader, node: Any) -> None:
    reader.add("limits", node, node.input[0], limits=(0.0, np.inf))


@_on("Clip")
def _clip(reader: _Reader, node: Any) -> None:
    ends = [reader.constant(name) if name else None for name in (*node.input[1:], "", "")[:2]]
    low, high = (default if end is None else float(end) for end, default in zip(ends, (-np.inf, np.inf), strict=True))
    reader.add("limits", node, node.input[0], limits=(low, high))


@_on("HardSwish", "HardSigmoid", "Sigmoid", "LeakyRelu", "Tanh", "Elu", "Softplus")
def _function(reader: _Reader, node: Any) -> None:
    defaults = {"HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "LeakyRelu": {"alpha": 0.01}, "Elu": {"alpha": 1.0}}
    given = {**defaults.get(node.op_type, {}), **_attributes(node)}
    parameters = tuple(float(given[key]) for key in sorted(given))
    reader.add("function", node, node.input[0], function=node.op_type, parameters=parameters)


@_on("MaxPool")
def _max_pool(reader: _Reader, node: Any) -> None:
    reader.add("maxpool", node, node.input[0], window=_window(node, list(_attributes(node)["kernel_shape"])))


@_on("AveragePool")
def _average_pool(reader: _Reader, node: Any) -> None:
    given = _attributes(node)
    window = _window(node, list(given["kernel_shape"]))
    reader.add("avgpool", node, node.input[0], window=window, counts_padding=bool(given.get("count_include_pad", 0)))


@_on("GlobalAveragePool", "ReduceMean")
def _mean(reader: _Reader, node: Any) -> None:
    keeps = bool(_attributes(node).get("keepdims", 1))
    rank = len(reader.shapes.get(node.input[0], ()))
    axes = [2, 3] if node.op_type == "GlobalAveragePool" else reader.ints(node, 1, "axes") or []
    if rank != 4 or sorted(axis % rank for axis in axes) != [2, 3]:
        raise ExportError(f"{_where(node)}: a mean over other axes than height and width has no integer form")
    reader.add("mean", node, node.input[0], keeps=keeps)


@_on("Concat")
def _concat(reader: _Reader, node: Any) -> None:
    rank = len(reader.shapes.get(node.output[0], ()))
    reader.add("concat", node, *node.input, axis=int(_attributes(node)["axis"]) % max(rank, 1))


@_on("Split")
def _split(reader: _Reader, node: Any) -> None:
    axis = int(_attributes(node).get("axis", 0)) % len(reader.shapes[node.input[0]])
    start = 0
    for output in node.output:
        stop = start + reader.shapes[output][axis]
        reader.add("slice", node, node.input[0], output=output, axis=axis, start=start, stop=stop, step=1)
        start = stop


@_on("Slice")
def _slice(reader: _Reader, node: Any) -> None:
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
    """The slices that leave something out, with numbers inside the shape."""
    for axis, start, stop, step in zip(axes, *given, strict=True):
        size = shape[axis]
        begin, end, stride = slice(start, stop, step).indices(size)
        if (begin, end, stride) != (0, size, 1):
            yield axis % len(shape), begin, end, stride


@_on("Pad")
def _pad(reader: _Reader, node: Any) -> None:
    value = reader.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    pads = reader.ints(node, 1, "pads") or []
    if _attributes(node).get("mode", b"constant") != b"constant" or np.any(value) or min(pads) < 0:
        raise ExportError(f"{_where(node)}: padding by anything but zeros has no integer form")
    half = len(pads) // 2
    reader.add("pad", node, node.input[0], before=tuple(pads[:half]), after=tuple(pads[half:]))


@_on("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(reader: _Reader, node: Any) -> None:
    shape = reader.shapes.get(node.output[0], ())
    if not shape or shape[0] != 1 or 0 in shape:
        raise ExportError(f"{_where(node)}: {node.op_type} to a shape that is not known, or that mixes images")
    reader.add("reshape", node, node.input[0], shape=shape[1:])


@_on("Transpose")
def _transpose(reader: _Reader, node: Any) -> None:
    order = tuple(_attributes(node)["perm"])
    if order[0] != 0:
        raise ExportError(f"{_where(node)}: the batch is moved from its place")
    reader.add("transpose", node, node.input[0], order=order)


@_on("Identity", "Max", "Dropout")
def _same(reader: _Reader, node: Any) -> None:
    if len(node.input) != 1:
        raise ExportError(f"{_where(node)}: operator {node.op_type} of several tensors has no integer form")
    reader.same[node.output[0]] = reader.real(node.input[0])


