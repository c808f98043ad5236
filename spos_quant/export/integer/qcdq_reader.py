"""A QCDQ file as steps: layers with their integers, quantizers with their tensor_qparams, everything else by kind.

The file is what `spos_quant.quant.onnx` writes: it already holds exact integers, and there is no second place that
knows modules of torch. What each operator becomes is in `operators`.
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
    """Goes over the nodes of a graph once."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.made = {output: node for node in self.graph.node for output in node.output}
        self.known = {item.name: numpy_helper.to_array(item) for item in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of every tensor, for one image."""
        self._run_once(model)
        self.same: dict[str, str] = {}
        """Tensors that are other tensors."""
        self.steps: list[Step] = []

    def read(self, handlers: Mapping[str, Handler]) -> FloatGraph:
        """The steps of all nodes. Raises `ExportError` at an operator without a handler."""
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

    def add(self, kind: str, node: Any, *inputs: str, output: str | None = None, **attributes: Any) -> None:
        """Adds a step that reads these tensors and makes the node's output, or another."""
        read = [self.real(name) for name in inputs]
        self.steps.append(Step(kind, name_of(node), read, output or node.output[0], attributes))

    def affine(self, node: Any, tensor: str, factor: Array, shift: Array) -> None:
        """`factor * x + shift`, by channels or one for all."""
        shape = self.shapes.get(node.output[0], ())
        self.add("affine", node, tensor, factor=factor, shift=shift, shape=shape)

    def _run_once(self, model: Any) -> None:
        """Reads shapes, and whole numbers that are computed from them, off a run on an empty image."""
        (images,) = self.graph.input
        shape = (1, *(d.dim_value for d in images.type.tensor_type.shape.dim[1:]))
        self.shapes[images.name] = shape
        names = [name for name in self.made if name not in self.known]
        for name, values in zip(names, run_with_intermediates(model, names, np.zeros(shape, np.float32)), strict=True):
            self.shapes[name] = values.shape
            if values.dtype == np.int64:
                self.known[name] = values

    def constant(self, tensor: str) -> Array | None:
        """The value of a tensor that depends on no image; None where it does, or is a dequantized weight."""
        return self.known.get(tensor)

    def value(self, tensor: str) -> Array:
        """The value of a tensor that must not depend on the image."""
        found = self.constant(tensor)
        if found is None:
            raise ExportError(f"{tensor!r} depends on the image where a constant is expected; use --format onnx-qcdq")
        return found

    def ints(self, node: Any, place: int, name: str) -> list[int] | None:
        """A list of whole numbers that newer operators take as an input and older ones as an attribute."""
        if len(node.input) > place and node.input[place]:
            value = self.constant(node.input[place])
            if value is None:
                raise ExportError(f"{where(node)}: {name} of {node.op_type} depends on the image")
            return [int(v) for v in np.ravel(value)]
        found = attributes(node).get(name)
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
            raise ExportError(f"{where(node)}: a weight with a zero point; expected symmetric weights")
        if clip is not None and clip.op_type == "Clip":
            low, high = (int(self.known[name]) for name in clip.input[1:3])
            values, bits, odd = np.clip(values, low, high), max(1, (high - low).bit_length()), False
        else:  # without a zero: -1 and 1 are 1 bit, all four are 2
            odd = set(np.unique(values).tolist()) <= {-3, -1, 1, 3}
            bits = int(np.abs(values).max()).bit_length() if odd else 8
        return (values.T if turns else values), np.ravel(scale).astype(np.float64), bits, odd

    def layer(
        self, node: Any, *, bias: str | None, window: Window | None, groups: int = 1, turned: bool = False
    ) -> None:
        """Adds a layer. Raises `ExportError` where its weight is none that is stored.

        Args:
            node: Its node.
            bias: The tensor of its bias.
            window: Of a convolution.
            groups: Of a convolution.
            turned: Whether the weight is `[in, out]`.
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
    """The module of a node."""
    return layer_name(node.name.partition("/input_quant/")[0] + "/x" if "/input_quant/" in node.name else node.name)


def where(node: Any) -> str:
    """How messages name the module of a node."""
    return f"module {name_of(node)!r}" if name_of(node) else "the model itself"


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def window_of(node: Any, kernel: list[int]) -> Window:
    """How a node's kernel moves. Raises `ExportError` unless it moves over pictures."""
    given = attributes(node)
    if len(kernel) != 2 or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise ExportError(f"{where(node)}: {node.op_type} over {len(kernel)} dimensions; expected pictures")
    stride, dilation = (list(given.get(key, (1, 1))) for key in ("strides", "dilations"))
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    return Window(
        kernel=(kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        padding=(top, left, bottom, right),
        dilation=(dilation[0], dilation[1]),
        ceil=bool(given.get("ceil_mode", 0)),
    )


Handler = Callable[[Reader, Any], None]
"""Adds the steps of a node."""
