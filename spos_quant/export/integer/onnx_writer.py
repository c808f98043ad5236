"""Writes the integer graph as ONNX with QLinearConv, QLinearAdd and similar, the 8-bit kernels of onnxruntime.

Activations are uint8 at every bit-width. A Clip after each operation limits them to [qmin, qmax]; it does not prevent
fusion. Weights are the codes of the model, with a Clip that declares their bits; onnxruntime multiplies them by
`Layer.factor` once, when it loads the file. Every node has its own initializers: onnxruntime does not fuse nodes that
share them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spos_quant.export.integer import reference
from spos_quant.export.integer.graph import (
    Add,
    Array,
    AveragePool,
    Concat,
    FloatLayer,
    IntegerGraph,
    Layer,
    MaxPool,
    Mean,
    Multiply,
    Op,
    Pad,
    Quantize,
    QuantParams,
    Reshape,
    Slice,
    Table,
    Transpose,
    Window,
)
from spos_quant.export.integer.layers import largest_weight
from spos_quant.export.onnx_file import METADATA_KEY

OPSET, CONTRIB = 17, "com.microsoft"


def write_onnx_int8(graph: IntegerGraph, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes the graph as one ONNX file with a dynamic batch size."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(tensor: str, values: Array) -> None:
        shapes[tensor] = values.shape[1:]

    logits = reference.run(graph, np.zeros((1, *graph.shape), np.float32), note)
    writer = _Writer(graph, shapes)
    writer.write()
    made = helper.make_graph(
        writer.nodes,
        "integers",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *graph.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", *logits.shape[1:]])],
        writer.constants,
        value_info=writer.infos,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=8, producer_name="spos-quant")
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(metadata, sort_keys=True)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class _Writer:
    """Collects nodes and initializers, and gives every tensor a readable name."""

    def __init__(self, graph: IntegerGraph, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.graph, self.tensor_qparams, self.shapes = graph, graph.tensor_qparams(), shapes
        self.infos: list[Any] = []
        """Shapes of tensors; ONNX cannot infer them after operators of another domain."""
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names = {graph.input: "input"}
        self.used: set[str] = {"input", "logits"}
        self.reals: dict[str, str] = {}
        self.pooled: set[str] = set()
        """Outputs of MaxPools that are already written, before the rounding of the layer in front."""

    def write(self) -> None:
        for op in self.graph.ops:
            self.names[op.output] = self.fresh(f"/{op.name}/{type(op).__name__}")
            self.put(op)
        last = self.real(self.graph.output)
        self.node("Identity", [last], "/logits", output="logits")

    def note(self, name: str, kind: int, shape: Sequence[Any]) -> None:
        """Declares type and shape of a tensor."""
        self.infos.append(helper.make_tensor_value_info(name, kind, shape))

    # ---- parts

    def fresh(self, wish: str) -> str:
        name, count = wish, 1
        while name in self.used:
            name, count = f"{wish}_{count}", count + 1
        self.used.add(name)
        return name

    def const(self, value: Any, wish: str) -> str:
        name = self.fresh(wish)
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(
        self, kind: str, inputs: Sequence[str], scope: str, *, output: str | None = None, domain: str = "", **given: Any
    ) -> str:
        """Adds a node named `{scope}/{kind}`; returns the name of its output."""
        made = output or self.fresh(f"{scope}/{kind}_output")
        name = self.fresh(f"{scope}/{kind}")
        self.nodes.append(helper.make_node(kind, list(inputs), [made], name=name, domain=domain, **given))
        return made

    def qparams(self, tensor: str, scope: str) -> list[str]:
        """Scale and zero point of a tensor of codes."""
        qparams = self.tensor_qparams[tensor]
        assert qparams is not None
        return self.scale_zero(qparams, scope)

    def scale_zero(self, qparams: QuantParams, scope: str) -> list[str]:
        return [
            self.const(np.float32(qparams.scale), f"{scope}/scale"),
            self.const(np.uint8(qparams.zero_point), f"{scope}/zero"),
        ]

    def codes(self, tensor: str) -> str:
        return self.names[tensor]

    def real(self, tensor: str) -> str:
        """The tensor as real numbers; adds a DequantizeLinear if it holds codes."""
        if self.tensor_qparams[tensor] is None:
            return self.names[tensor]
        if tensor not in self.reals:
            name = self.names[tensor]
            self.reals[tensor] = self.node("DequantizeLinear", [name, *self.qparams(tensor, name)], name)
        return self.reals[tensor]

    def finish(self, op: Op, made: str, shaped_as: str | None = None) -> None:
        """Registers a new tensor and clips it: first to the limits of the activation, then to the range of its bits."""
        scope = self.names[op.output]
        kind = TensorProto.FLOAT if op.qparams is None else TensorProto.UINT8
        self.note(made, int(kind), ["n", *self.shapes[shaped_as or op.output]])
        ranges: list[tuple[int, int]] = []
        if op.qparams is None:
            if op.limits is not None:
                made = self.clip(made, op.limits, scope, np.float32)
        else:
            full, limited = (op.qparams.qmin, op.qparams.qmax), op.qparams.codes(op.limits)
            if limited != full:
                ranges.append(limited)
            if full != (0, 255) or (ranges and limited[1] - limited[0] < 128):  # so that the file declares the bits
                ranges.append(full)
        for low, high in ranges:
            made = self.clip(made, (low, high), scope, np.uint8)
        self.names[op.output] = made

    def clip(self, tensor: str, bounds: tuple[float, float], scope: str, dtype: Any) -> str:
        ends = [self.const(dtype(end), f"{scope}/{word}") for end, word in zip(bounds, ("low", "high"), strict=True)]
        return self.node("Clip", [tensor, *ends], scope)

    # ---- operations

    @singledispatchmethod
    def put(self, op: Op) -> None:
        raise TypeError(f"unknown operation: {type(op).__name__}")

    @put.register
    def _(self, op: Quantize) -> None:
        scope, qparams = self.names[op.output], op.qparams
        assert qparams is not None
        x = self.real(op.inputs[0])
        if qparams.qmin >= 0:
            return self.finish(op, self.node("QuantizeLinear", [x, *self.scale_zero(qparams, scope)], scope))
        scaled = self.node("Div", [x, self.const(np.float32(qparams.scale), f"{scope}/scale")], scope)
        rounded = self.node("Round", [scaled], scope)
        self.names[op.output] = self.clip(rounded, (qparams.qmin, qparams.qmax), scope, np.float32)

    @put.register
    def _(self, op: Layer) -> None:
        scope = f"/{op.name}"
        qparams = self.tensor_qparams[op.inputs[0]]
        assert qparams is not None
        if op.wide:
            return self._wide(op, qparams, scope)
        x = [self.codes(op.inputs[0]), *self.qparams(op.inputs[0], f"{scope}/input")]
        weight = self._weight(op, qparams, scope)
        bias = self.const(op.bias, f"{scope}/bias")
        end = [] if op.qparams is None else self.scale_zero(op.qparams, f"{scope}/output")
        if op.window is None:
            return self.finish(op, self.node("QGemm", [*x, *weight, bias, *end], scope, domain=CONTRIB, transB=1))
        given = _attributes(op.window)
        if not op.layer:
            scope += "/BatchNormalization/QLinearConv"
        self.finish(op, self.node("QLinearConv", [*x, *weight, *end, bias], scope, group=op.groups, **given))

    def _weight(self, op: Layer, qparams: QuantParams, scope: str) -> list[str]:
        """Tensor names of weight, scales and zero points."""
        scale = self.const(op.scale, f"{scope}/weight_scale")
        if int(np.abs(op.weight.astype(int)).max(initial=0)) * op.factor > largest_weight(qparams):
            # The 16-bit sums of processors without VNNI would overflow; onnxruntime sums unsigned weights in 32 bits.
            stored = self.const((op.weight.astype(np.int16) + 128).astype(np.uint8), f"{scope}/weight")
            return [stored, scale, self.const(np.full(len(op.scale), 128, np.uint8), f"{scope}/weight_zero")]
        name = self.const(op.weight, f"{scope}/weight")
        qmax = 2 ** ((op.weight_bits or 8) - 1) - 1
        if op.layer and op.weight_bits != 8 and int(np.abs(op.weight).max(initial=0)) <= qmax:
            name = self.clip(name, (-qmax, qmax), f"{scope}/weight", np.int8)
        if op.factor != 1:
            name = self._times(name, op.factor, f"{scope}/weight")
        return [name, scale, self.const(np.zeros(len(op.scale), np.int8), f"{scope}/weight_zero")]

    def _times(self, name: str, factor: int, scope: str) -> str:
        """Constant codes times an integer; onnxruntime folds the product into a constant."""
        wide = self.node("Cast", [name], scope, to=TensorProto.INT32)
        times = self.node("Mul", [wide, self.const(np.int32(factor), f"{scope}/factor")], scope)
        return self.node("Cast", [times], scope, to=TensorProto.INT8)

    def _wide(self, op: Layer, qparams: QuantParams, scope: str) -> None:
        assert op.window is not None or op.qparams is not None
        assert op.qparams is not None
        weight = self.const(op.weight.astype(np.float32), f"{scope}/weight")
        bias = self.const(op.bias.astype(np.float32), f"{scope}/bias")
        inputs = [self.codes(op.inputs[0]), weight, bias]
        if op.window is None:
            sums = self.node("Gemm", inputs, scope, transB=1)
        else:
            sums = self.node("Conv", inputs, scope, group=op.groups, **_attributes(op.window))
        divisor = self.const(reference.divisors(op, qparams), f"{scope}/output/scale")
        zero = self.const(np.full(len(op.scale), op.qparams.zero_point, np.uint8), f"{scope}/output/zero")
        pool = self._only_pool_after(op)
        if pool is not None:
            # Rounding is monotonic, so pooling may come first: onnxruntime's MaxPool of floats is many times as fast as
            # that of codes, and fewer values are left to round.
            sums = self.node("MaxPool", [sums], f"/{pool.name}", **_attributes(pool.window, pool=True))
            self.pooled.add(pool.output)
        made = self.node("QuantizeLinear", [sums, divisor, zero], scope, axis=1)
        self.finish(op, made, None if pool is None else pool.output)

    def _only_pool_after(self, op: Op) -> MaxPool | None:
        """The MaxPool that reads the output of an operation, if nothing else reads it."""
        users = [user for user in self.graph.ops if op.output in user.inputs]
        only = users[0] if len(users) == 1 and op.output != self.graph.output else None
        return only if isinstance(only, MaxPool) else None

    @put.register
    def _(self, op: FloatLayer) -> None:
        scope = f"/{op.name}"
        inputs = [
            self.real(op.inputs[0]),
            self.const(op.weight, f"{scope}/weight"),
            self.const(op.bias, f"{scope}/bias"),
        ]
        if op.window is None:
            return self.finish(op, self.node("Gemm", inputs, scope, transB=1))
        self.finish(op, self.node("Conv", inputs, scope, group=op.groups, **_attributes(op.window)))

    @put.register(Add)
    @put.register(Multiply)
    def _(self, op: Op) -> None:
        scope, kind = self.names[op.output], "Add" if isinstance(op, Add) else "Mul"
        if op.qparams is None:
            return self.finish(op, self.node(kind, [self.real(name) for name in op.inputs], scope))
        inputs = [part for name in op.inputs for part in (self.codes(name), *self.qparams(name, scope))]
        self.finish(
            op, self.node(f"QLinear{kind}", [*inputs, *self.scale_zero(op.qparams, scope)], scope, domain=CONTRIB)
        )

    @put.register
    def _(self, op: MaxPool) -> None:
        if op.output in self.pooled:
            self.names[op.output] = self.codes(op.inputs[0])
            return
        self.names[op.output] = self.node(
            "MaxPool", [self.codes(op.inputs[0])], self.names[op.output], **_attributes(op.window, pool=True)
        )

    @put.register
    def _(self, op: AveragePool) -> None:
        scope = self.names[op.output]
        given = {**_attributes(op.window, pool=True), "count_include_pad": int(op.counts_padding)}
        given.pop("dilations")
        if op.qparams is None:
            return self.finish(op, self.node("AveragePool", [self.real(op.inputs[0])], scope, **given))
        x = [self.codes(op.inputs[0]), *self.qparams(op.inputs[0], scope)]
        made = self.node(
            "QLinearAveragePool", [*x, *self.scale_zero(op.qparams, scope)], scope, domain=CONTRIB, **given
        )
        self.finish(op, made)

    @put.register
    def _(self, op: Mean) -> None:
        scope = self.names[op.output]
        if op.qparams is None:
            made = self.node("ReduceMean", [self.real(op.inputs[0])], scope, axes=[2, 3], keepdims=int(op.keeps))
            return self.finish(op, made)
        x = [self.codes(op.inputs[0]), *self.qparams(op.inputs[0], scope)]
        made = self.node("QLinearGlobalAveragePool", [*x, *self.scale_zero(op.qparams, scope)], scope, domain=CONTRIB)
        if not op.keeps:
            made = self.node("Flatten", [made], scope)
        self.finish(op, made)

    @put.register
    def _(self, op: Table) -> None:
        scope = self.names[op.output]
        index = self.node("Cast", [self.codes(op.inputs[0])], scope, to=TensorProto.INT32)
        made = self.node("Gather", [self.const(op.table, f"{scope}/table"), index], scope)
        self.finish(op, made)

    @put.register
    def _(self, op: Concat) -> None:
        inputs = [self.codes(name) for name in op.inputs]
        self.names[op.output] = self.node("Concat", inputs, self.names[op.output], axis=op.axis)

    @put.register
    def _(self, op: Slice) -> None:
        scope = self.names[op.output]
        words = (("start", op.start), ("stop", op.stop), ("axis", op.axis), ("step", op.step))
        given = [self.const(np.array([value], np.int64), f"{scope}/{word}") for word, value in words]
        self.names[op.output] = self.node("Slice", [self.codes(op.inputs[0]), *given], scope)

    @put.register
    def _(self, op: Pad) -> None:
        scope, qparams = self.names[op.output], self.tensor_qparams[op.inputs[0]]
        widths = self.const(np.array([*op.before, *op.after], np.int64), f"{scope}/widths")
        value = self.const(np.float32(0) if qparams is None else np.uint8(qparams.zero_point), f"{scope}/zero")
        self.names[op.output] = self.node("Pad", [self.codes(op.inputs[0]), widths, value], scope)

    @put.register
    def _(self, op: Reshape) -> None:
        scope = self.names[op.output]
        shape = self.const(np.array([0, *op.shape], np.int64), f"{scope}/shape")
        self.names[op.output] = self.node("Reshape", [self.codes(op.inputs[0]), shape], scope)

    @put.register
    def _(self, op: Transpose) -> None:
        made = self.node("Transpose", [self.codes(op.inputs[0])], self.names[op.output], perm=list(op.order))
        self.names[op.output] = made


def _attributes(window: Window, *, pool: bool = False) -> dict[str, Any]:
    given: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.stride),
        "pads": list(window.padding),
        "dilations": list(window.dilation),
    }
    return {**given, "ceil_mode": int(window.ceil)} if pool else given
