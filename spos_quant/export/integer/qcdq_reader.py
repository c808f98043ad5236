"""Reads a QCDQ file into a `FloatGraph`: layers with integer weights, quantizers with parameters, other operations.

The file comes from `spos_quant.quant.onnx` and already holds the exact integers, so no code here depends on torch
modules. The module `operators` converts each ONNX operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from spos_quant.errors import ExportError
from spos_quant.export.integer.float_graph import FloatGraph, Step
from spos_quant.export.integer.graph import Array, Window
from spos_quant.export.integer.intermediates import run_with_intermediates
from spos_quant.export.onnx_file import layer_name


class Reader:
    """Converts the nodes of a graph in one pass."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.made = {output: node for node in self.graph.node for output in node.output}
        self.known = {item.name: numpy_helper.to_array(item) for item in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Tensor -> shape for one image."""
        self._run_once(model)
        self.same: dict[str, str] = {}
        """Tensor -> the tensor that it equals."""
        self.steps: list[Step] = []

    def read(self, handlers: Mapping[str, Handler]) -> FloatGraph:
        """Converts all nodes. Raises `ExportError` if an operator has no handler."""
        for node in self.graph.node:
            if node.op_type == "Constant" or self.constant(node.output[0]) is not None or self._of_integers(node):
                continue
            handler = handlers.get(node.op_type)
            if handler is None:
                raise ExportError(
                    f"{where(node)}: operator {node.op_type} has no integer form; use --format onnx-qcdq, or replace it"
                )
            handler(self, node)
        (images,), (logits,) = self.graph.input, self.graph.output
        return FloatGraph(images.name, self.shapes[images.name][1:], self.real(logits.name), self.steps)

    def _of_integers(self, node: Any) -> bool:
        """Whether a node is inside a quantizer chain, which the end of the chain or the layer converts as a whole."""
        if node.op_type == "QuantizeLinear":
            return True
        if node.op_type == "Clip":
            maker = self.made.get(node.input[0])
            return node.input[0] in self.known or (maker is not None and maker.op_type == "QuantizeLinear")
        return node.op_type in ("DequantizeLinear", "Transpose") and self._weight(node.output[0]) is not None

    def real(self, tensor: str) -> str:
        """The tensor that a tensor equals, past operators that change nothing."""
        while tensor in self.same:
            tensor = self.same[tensor]
        return tensor

    def add(self, kind: str, node: Any, *inputs: str, output: str | None = None, **attributes: Any) -> None:
        """Adds an operation with these inputs; its output is `output`, or that of the node if None."""
        read = [self.real(name) for name in inputs]
        self.steps.append(Step(kind, name_of(node), read, output or node.output[0], attributes))

    def affine(self, node: Any, tensor: str, factor: Array, shift: Array) -> None:
        """Adds `factor * x + shift`; both have one value per channel or one in total."""
        shape = self.shapes.get(node.output[0], ())
        self.add("affine", node, tensor, factor=factor, shift=shift, shape=shape)

    def _run_once(self, model: Any) -> None:
        """Runs the model on zeros; records all shapes, and int64 tensors, which depend on shapes alone."""
        (images,) = self.graph.input
        shape = (1, *(d.dim_value for d in images.type.tensor_type.shape.dim[1:]))
        self.shapes[images.name] = shape
        names = [name for name in self.made if name not in self.known]
        for name, values in zip(names, run_with_intermediates(model, names, np.zeros(shape, np.float32)), strict=True):
            self.shapes[name] = values.shape
            if values.dtype == np.int64:
                self.known[name] = values

    def constant(self, tensor: str) -> Array | None:
        """The value of a constant tensor; None if it depends on the image or is a dequantized weight."""
        return self.known.get(tensor)

    def value(self, tensor: str) -> Array:
        """The value of a constant tensor. Raises `ExportError` if it depends on the image."""
        found = self.constant(tensor)
        if found is None:
            raise ExportError(f"{tensor!r} depends on the image where a constant is expected; use --format onnx-qcdq")
        return found

    def ints(self, node: Any, place: int, name: str) -> list[int] | None:
        """A list of integers that is an input of the operator in newer opsets and an attribute in older ones."""
        if len(node.input) > place and node.input[place]:
            value = self.constant(node.input[place])
            if value is None:
                raise ExportError(f"{where(node)}: {name} of {node.op_type} depends on the image")
            return [int(v) for v in np.ravel(value)]
        found = attributes(node).get(name)
        return None if found is None else [int(v) for v in found]

    # ---- weights

    def _weight(self, tensor: str) -> tuple[Array, Array | None, int | None, bool] | None:
        """The weight of a layer: values, scale per output channel, bits, whether it is mid-rise; None if not stored."""
        transposed = False
        node = self.made.get(tensor)
        while node is not None and node.op_type in ("Transpose", "Identity"):
            transposed ^= node.op_type == "Transpose"
            tensor = node.input[0]
            node = self.made.get(tensor)
        stored = self.known.get(tensor)
        if stored is not None:
            return (stored.T if transposed else stored), None, None, False
        if node is None or node.op_type != "DequantizeLinear":
            return None
        codes, clip = node.input[0], self.made.get(node.input[0])
        if clip is not None and clip.op_type == "Clip":
            codes = clip.input[0]
        values, scale = self.known.get(codes), self.known.get(node.input[1])
        if values is None or scale is None:
            return None
        if len(node.input) > 2 and np.any(self.known.get(node.input[2])):
            raise ExportError(f"{where(node)}: a weight with a zero point; expected symmetric weights")
        if clip is not None and clip.op_type == "Clip":
            low, high = (int(self.known[name]) for name in clip.input[1:3])
            values, bits, odd = np.clip(values, low, high), max(1, (high - low).bit_length()), False
        else:  # mid-rise: codes -1 and 1 are 1 bit, all four are 2 bits
            odd = set(np.unique(values).tolist()) <= {-3, -1, 1, 3}
            bits = int(np.abs(values).max()).bit_length() if odd else 8
        return (values.T if transposed else values), np.ravel(scale).astype(np.float64), bits, odd

    def layer(
        self, node: Any, *, bias: str | None, window: Window | None, groups: int = 1, turned: bool = False
    ) -> None:
        """Adds a layer. Raises `ExportError` if its weight is not stored in the file.

        Args:
            node: The node of the layer.
            bias: Name of the bias tensor; None without a bias.
            window: Geometry of a convolution; None for a linear layer.
            groups: Groups of a convolution.
            turned: Whether the weight is stored as `[in, out]`.
        """
        found = self._weight(node.input[1])
        if found is None:
            raise ExportError(
                f"{where(node)}: a product of two tensors that both depend on the image has no integer form"
            )
        values, scale, bits, odd = found
        if turned:
            values = values.T
        outputs = len(values)
        scale = None if scale is None else np.broadcast_to(scale, outputs).copy()
        shift = np.zeros(outputs) if not bias else np.ravel(self.value(bias)).astype(np.float64)
        attributes: dict[str, Any] = {
            "weight": values,
            "scale": scale,
            "bits": bits,
            "odd": odd,
            "bias": shift,
            "window": window,
        }
        self.add("layer", node, node.input[0], **attributes, groups=groups)


def name_of(node: Any) -> str:
    """The name of the module of a node."""
    return layer_name(node.name.partition("/input_quant/")[0] + "/x" if "/input_quant/" in node.name else node.name)


def where(node: Any) -> str:
    """The module of a node, for error messages."""
    return f"module {name_of(node)!r}" if name_of(node) else "the model itself"


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def window_of(node: Any, kernel: list[int]) -> Window:
    """The window of a node. Raises `ExportError` unless it is two-dimensional with explicit padding."""
    found = attributes(node)
    if len(kernel) != 2 or found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise ExportError(f"{where(node)}: {node.op_type} over {len(kernel)} dimensions; expected images")
    stride, dilation = (list(found.get(key, (1, 1))) for key in ("strides", "dilations"))
    top, left, bottom, right = found.get("pads", (0, 0, 0, 0))
    return Window(
        kernel=(kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        padding=(top, left, bottom, right),
        dilation=(dilation[0], dilation[1]),
        ceil=bool(found.get("ceil_mode", 0)),
    )


Handler = Callable[[Reader, Any], None]
"""Adds the operations of a node to the reader."""
