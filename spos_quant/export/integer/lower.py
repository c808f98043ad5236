"""Lowers a QCDQ file to the integer graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spos_quant.errors import ExportError
from spos_quant.export.integer.assign_qparams import assign_qparams
from spos_quant.export.integer.float_graph import MOVES, FloatGraph, Step
from spos_quant.export.integer.functions import lookup_table
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
from spos_quant.export.integer.layers import (
    float_first_layer,
    float_first_qparams,
    integer_layer,
    standalone_batch_norm,
)
from spos_quant.export.integer.operators import read_float_graph

_PLAIN: dict[str, type[Op]] = {
    "add": Add, "multiply": Multiply, "maxpool": MaxPool, "avgpool": AveragePool, "mean": Mean, "concat": Concat,
    "slice": Slice, "pad": Pad, "reshape": Reshape, "transpose": Transpose,
}  # fmt: skip
"""Kinds of float operations that have an integer operation with the same fields."""


def lower(path: Path, images: Array) -> IntegerGraph:
    """The integer graph of a QCDQ file that `spos_quant.quant.onnx` wrote.

    Args:
        path: The file.
        images: Calibration images `[n, C, H, W]`, preprocessed. They determine the scales of tensors that the model
            does not quantize.

    Raises:
        ExportError: an operator has no integer form, an inner layer is float, or values overflow; the message names the
            module.
    """
    model = onnx.load(path)
    network = fuse(read_float_graph(model))
    _assign_roles(network)
    tensor_qparams = assign_qparams(network, model, np.asarray(images, dtype=np.float32))
    return _Lowering(network, tensor_qparams, images).graph()


def _assign_roles(network: FloatGraph) -> None:
    """Sets the attribute `role` of each layer, "integer", "first" or "last", and `behind` of each operation.

    "first" and "last" are layers that were kept float. `behind` is True after a float last layer.
    """
    quantized = {step.output for step in network.steps if step.kind == "quantize"}
    raw = {network.input}
    behind: set[str] = set()
    for step in network.steps:
        if step.kind in MOVES and set(step.inputs) <= raw:
            raw.add(step.output)
        step.attributes["behind"] = not behind.isdisjoint(step.inputs)
        if step.attributes["behind"]:
            _check_behind(step)
            behind.add(step.output)
        elif step.kind == "layer":
            if step.attributes["scale"] is not None and step.inputs[0] in quantized:
                step.attributes["role"] = "integer"
            elif step.attributes["scale"] is None and step.inputs[0] not in quantized and _is_last(step, network):
                step.attributes["role"] = "last"
                behind.add(step.output)
            elif step.attributes["scale"] is None and step.inputs[0] in raw:
                step.attributes["role"] = "first"
            else:
                raise ExportError(_float_layer_message(step, step.inputs[0] in quantized))


def _float_layer_message(step: Step, quantized_input: bool) -> str:
    what = "weights" if step.attributes["scale"] is None else "inputs"
    if what == "weights" and not quantized_input:
        what = "weights and inputs"
    return (
        f"layer {step.name!r} has float {what}; integer formats allow a float first and last layer only: give it bits, "
        "or use --format onnx-qcdq"
    )


def _check_behind(step: Step) -> None:
    if step.kind not in (*MOVES, "mean", "avgpool", "add"):
        raise ExportError(
            f"module {step.name!r}: {step.kind} after the last layer, which is float, has no integer form; remove it "
            "from the model, or use --format onnx-qcdq"
        )


def _is_last(layer: Step, network: FloatGraph) -> bool:
    """Whether no layer or quantizer depends on the output of a layer."""
    reached = {layer.output}
    for step in network.steps:
        if not reached.isdisjoint(step.inputs):
            if step.kind in ("layer", "quantize"):
                return False
            reached.add(step.output)
    return True


class _Lowering:
    """Converts float operations to integer operations, in order."""

    def __init__(self, network: FloatGraph, tensor_qparams: dict[str, QuantParams | None], images: Array) -> None:
        self.network, self.tensor_qparams = network, dict(tensor_qparams)
        self.peak = float(np.abs(images).max(initial=0)) or 1.0
        self.aliases: dict[str, str] = {}
        """Tensor -> an earlier tensor with the same codes."""
        self.ops: list[Op] = []

    def graph(self) -> IntegerGraph:
        network = self.network
        for step in network.steps:
            convert = getattr(self, f"_{step.kind}", self._plain)
            op = convert(step)
            if op is not None:
                self.ops.append(op)
        return IntegerGraph(network.input, network.shape, self._resolved(network.output), tuple(self.ops))

    def _resolved(self, tensor: str) -> str:
        return self.aliases.get(tensor, tensor)

    def _common(self, step: Step) -> dict[str, Any]:
        limits: Limits | None = step.attributes.get("limits")
        return {
            "name": step.name,
            "inputs": tuple(map(self._resolved, step.inputs)),
            "output": step.output,
            "qparams": self.tensor_qparams[step.output],
            "limits": limits,
        }

    def _plain(self, step: Step) -> Op:
        own = {key: value for key, value in step.attributes.items() if key not in ("limits", "behind")}
        return _PLAIN[step.kind](**self._common(step), **own)

    def _add(self, step: Step) -> Op:
        self._need_powers_of_two(step)
        return self._plain(step)

    _multiply = _avgpool = _add

    def _need_powers_of_two(self, step: Step) -> None:
        """Raises `ExportError` if the scale of an operand is not a power of two: the model itself quantizes it."""
        for tensor in step.inputs:
            qparams = self.tensor_qparams[tensor]
            if qparams is not None and np.frexp(qparams.scale)[0] != 0.5:
                raise ExportError(
                    f"module {step.name!r} adds, multiplies or averages a tensor that the model itself quantizes; "
                    "integer formats need quantizers at the inputs of layers only"
                )

    def _quantize(self, step: Step) -> Op | None:
        wanted: QuantParams = step.attributes["qparams"]
        self.tensor_qparams[step.output] = wanted
        if self.tensor_qparams[step.inputs[0]] == wanted:
            self.aliases[step.output] = self._resolved(step.inputs[0])
            return None
        for op in self.ops:  # share the Quantize of layers that read the same tensor with the same parameters
            if isinstance(op, Quantize) and op.inputs == (self._resolved(step.inputs[0]),) and op.qparams == wanted:
                self.aliases[step.output] = op.output
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
        table = lookup_table(function, parameters, source, target)
        return Table(**common, table=table, function=function, parameters=parameters)

    def _affine(self, step: Step) -> Op:
        source = self.tensor_qparams[step.inputs[0]]
        if source is None or self.tensor_qparams[step.output] is None:
            raise ExportError(f"module {step.name!r}: BatchNorm or a sum of real numbers has no integer form here")
        return standalone_batch_norm(step, source, self._common(step))

    def _layer(self, step: Step) -> Op:
        role, common = step.attributes["role"], self._common(step)
        if role == "last":
            shared = {key: step.attributes[key] for key in ("window", "groups")}
            weight, bias = (step.attributes[key].astype(np.float32) for key in ("weight", "bias"))
            return FloatLayer(**common, **shared, weight=weight, bias=bias)
        if role == "first":
            qparams = float_first_qparams(self.peak)
            codes = f"{step.inputs[0]}.wide"
            self.ops.append(Quantize(name=step.name, inputs=common["inputs"], output=codes, qparams=qparams))
            return float_first_layer(step, qparams, {**common, "inputs": (codes,)})
        source = self.tensor_qparams[step.inputs[0]]
        assert source is not None
        return integer_layer(step, source, common)
