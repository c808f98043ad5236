"""From a QCDQ file to the integer graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spos_quant.errors import ExportError
from spos_quant.export.integer.assign_qparams import assign_qparams
from spos_quant.export.integer.float_graph import MOVES, FloatGraph, Step
from spos_quant.export.integer.functions import table_of
from spos_quant.export.integer.fusion import fuse
from spos_quant.export.integer.graph import (
    Add,
    Array,
    AveragePool,
    Concat,
    FloatLayer,
    IntegerGraph,
    Limits,
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
)
from spos_quant.export.integer.layers import integer_layer, own_batch_norm, wide_layer, wide_qparams
from spos_quant.export.integer.operators import read_float_graph

_PLAIN: dict[str, type[Op]] = {
    "add": Add, "multiply": Multiply, "maxpool": MaxPool, "avgpool": AveragePool, "mean": Mean, "concat": Concat,
    "slice": Slice, "pad": Pad, "reshape": Reshape, "transpose": Transpose,
}  # fmt: skip
"""Kinds of steps that are kinds of the graph with the same fields."""


def lower(path: Path, images: Array) -> IntegerGraph:
    """The integer graph of a QCDQ file of ours.

    Args:
        path: The file.
        images: `[n, C, H, W]`, preprocessed; the steps of tensors that no quantizer of the model rounds are chosen by
            them.

    Raises:
        ExportError: an operator without an integer form, a layer between others that is float, or numbers that do not
            fit; it names the module.
    """
    model = onnx.load(path)
    steps = fuse(read_float_graph(model))
    _give_roles(steps)
    tensor_qparams = assign_qparams(steps, model, np.asarray(images, dtype=np.float32))
    return _Lowering(steps, tensor_qparams, images).graph()


def _give_roles(steps: FloatGraph) -> None:
    """Says of each layer whether it is in integers, the first one in float, or the last."""
    quantized = {step.output for step in steps.steps if step.kind == "quantize"}
    raw = {steps.input}
    behind: set[str] = set()
    for step in steps.steps:
        if step.kind in MOVES and set(step.inputs) <= raw:
            raw.add(step.output)
        step.attributes["behind"] = not behind.isdisjoint(step.inputs)
        if step.attributes["behind"]:
            _check_behind(step)
            behind.add(step.output)
        elif step.kind == "layer":
            if step.attributes["scale"] is not None and step.inputs[0] in quantized:
                step.attributes["role"] = "integer"
            elif step.attributes["scale"] is None and step.inputs[0] not in quantized and _leads_out(step, steps):
                step.attributes["role"] = "last"
                behind.add(step.output)
            elif step.attributes["scale"] is None and step.inputs[0] in raw:
                step.attributes["role"] = "first"
            else:
                raise ExportError(_half(step, step.inputs[0] in quantized))


def _half(step: Step, quantized_input: bool) -> str:
    what = "weights" if step.attributes["scale"] is None else "inputs"
    if what == "weights" and not quantized_input:
        what = "weights and inputs"
    return (
        f"layer {step.name!r} has float {what}; in integers only the first and the last layer may be float: give it "
        "bits, or use --format onnx-qcdq"
    )


def _check_behind(step: Step) -> None:
    if step.kind not in (*MOVES, "mean", "avgpool", "add"):
        raise ExportError(
            f"module {step.name!r}: {step.kind} behind the last layer, which is float, has no integer form; leave it "
            "out of the model, or use --format onnx-qcdq"
        )


def _leads_out(layer: Step, steps: FloatGraph) -> bool:
    """Whether no other layer follows."""
    reached = {layer.output}
    for step in steps.steps:
        if not reached.isdisjoint(step.inputs):
            if step.kind in ("layer", "quantize"):
                return False
            reached.add(step.output)
    return True


class _Lowering:
    """Makes the operations of a graph in order."""

    def __init__(self, steps: FloatGraph, tensor_qparams: dict[str, QuantParams | None], images: Array) -> None:
        self.steps, self.tensor_qparams = steps, dict(tensor_qparams)
        self.peak = float(np.abs(images).max(initial=0)) or 1.0
        self.same: dict[str, str] = {}
        self.ops: list[Op] = []

    def graph(self) -> IntegerGraph:
        for step in self.steps.steps:
            make = getattr(self, f"_{step.kind}", self._plain)
            made = make(step)
            if made is not None:
                self.ops.append(made)
        return IntegerGraph(self.steps.input, self.steps.shape, self._real_name(self.steps.output), tuple(self.ops))

    def _real_name(self, tensor: str) -> str:
        return self.same.get(tensor, tensor)

    def _common(self, step: Step) -> dict[str, Any]:
        limits: Limits | None = step.attributes.get("limits")
        return {
            "name": step.name,
            "inputs": tuple(map(self._real_name, step.inputs)),
            "output": step.output,
            "qparams": self.tensor_qparams[step.output],
            "limits": limits,
        }

    def _plain(self, step: Step) -> Op:
        given = {key: value for key, value in step.attributes.items() if key not in ("limits", "behind")}
        return _PLAIN[step.kind](**self._common(step), **given)

    def _add(self, step: Step) -> Op:
        self._need_powers(step)
        return self._plain(step)

    _multiply = _avgpool = _add

    def _need_powers(self, step: Step) -> None:
        """Raises `ExportError` where a quantizer of the model made an operand: its step is no power of two."""
        for tensor in step.inputs:
            qparams = self.tensor_qparams[tensor]
            if qparams is not None and np.frexp(qparams.scale)[0] != 0.5:
                raise ExportError(
                    f"module {step.name!r} computes with a tensor that a quantizer of the model rounded; in integers, "
                    "quantizers belong to the layers that read a tensor"
                )

    def _quantize(self, step: Step) -> Op | None:
        wanted: QuantParams = step.attributes["qparams"]
        self.tensor_qparams[step.output] = wanted
        if self.tensor_qparams[step.inputs[0]] == wanted:
            self.same[step.output] = self._real_name(step.inputs[0])
            return None
        for op in self.ops:  # layers that read the same tensor through one quantizer
            if isinstance(op, Quantize) and op.inputs == (self._real_name(step.inputs[0]),) and op.qparams == wanted:
                self.same[step.output] = op.output
                return None
        return Quantize(**self._common(step))

    def _limits(self, step: Step) -> Op:
        return self._by_table(step, "Limits", step.attributes["limits"])

    def _function(self, step: Step) -> Op:
        return self._by_table(step, step.attributes["function"], step.attributes["parameters"])

    def _by_table(self, step: Step, function: str, parameters: tuple[float, ...]) -> Op:
        source, target = self.tensor_qparams[step.inputs[0]], self.tensor_qparams[step.output]
        if source is None or target is None:
            raise ExportError(f"module {step.name!r}: {function} of real numbers has no integer form")
        common = {**self._common(step), "limits": None}
        table = table_of(function, parameters, source, target)
        return Table(**common, table=table, function=function, parameters=parameters)

    def _affine(self, step: Step) -> Op:
        source = self.tensor_qparams[step.inputs[0]]
        if source is None or self.tensor_qparams[step.output] is None:
            raise ExportError(f"module {step.name!r}: BatchNorm or a sum of real numbers has no integer form here")
        return own_batch_norm(step, source, self._common(step))

    def _layer(self, step: Step) -> Op:
        role, common = step.attributes["role"], self._common(step)
        if role == "last":
            shared = {key: step.attributes[key] for key in ("window", "groups")}
            weight, bias = (step.attributes[key].astype(np.float32) for key in ("weight", "bias"))
            return FloatLayer(**common, **shared, weight=weight, bias=bias)
        if role == "first":
            qparams = wide_qparams(self.peak)
            codes = f"{step.inputs[0]}.wide"
            self.ops.append(Quantize(name=step.name, inputs=common["inputs"], output=codes, qparams=qparams))
            return wide_layer(step, qparams, {**common, "inputs": (codes,)})
        source = self.tensor_qparams[step.inputs[0]]
        assert source is not None
        return integer_layer(step, source, common)
