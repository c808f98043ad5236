"""Which qparams each tensor between the layers has.

Tensors that only move values (pooling by maximum, concatenation, slices) share a qparams with what they read. A tensor
that nothing but one quantizer reads takes that quantizer's qparams, so that nothing is rounded twice. Every other tensor
has 8 bits with the step of least squared error on calibration images. Operands and results of sums and products, such
as residual additions, have powers of two as steps: they are then exact in float32, and equal in every runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spos_quant.errors import ExportError
from spos_quant.export.integer.float_graph import MOVES, FloatGraph, Step
from spos_quant.export.integer.graph import Array, QuantParams
from spos_quant.export.integer.intermediates import run_with_intermediates
from spos_quant.export.runtime import in_batches
from spos_quant.sampling_stride import stride

_SAMPLE = 4096
"""Values of a tensor and batch that a step is judged on."""
_BATCH = 16
_SUMS = ("add", "multiply", "avgpool")
"""Kinds that need steps of powers of two on both sides: their sums are then exact."""
_NEVER_NEGATIVE = ("Sigmoid", "HardSigmoid", "Softplus")


@dataclass
class Group:
    """Tensors of one qparams."""

    tensors: list[str]
    made: list[Step] = field(default_factory=list)
    """What makes them, moves left out."""
    quantizers: list[QuantParams] = field(default_factory=list)
    """What reads them and rounds."""
    read: list[Step] = field(default_factory=list)
    """What else reads them."""
    qparams: QuantParams | None = None

    @property
    def sums(self) -> bool:
        """Whether a sum or a product makes or reads one of them."""
        return any(step.kind in _SUMS for step in (*self.made, *self.read))


def assign_qparams(steps: FloatGraph, model: Any, images: Array) -> dict[str, QuantParams | None]:
    """The qparams of every tensor; None where it is real.

    Args:
        steps: The network, simplified.
        model: The QCDQ model that it was read from.
        images: `[n, C, H, W]` to choose steps by.
    """
    groups = _groups(steps)
    positive = _never_negative(steps)
    loose: list[Group] = []
    for group in groups:
        if steps.input in group.tensors or _is_real(group, steps):
            continue
        if {step.kind for step in group.made} == {"quantize"}:
            group.qparams = _common_qparams(group.made)
        elif len(set(group.quantizers)) == 1 and not group.read and not group.sums:
            group.qparams = group.quantizers[0]
        else:
            loose.append(group)
    samples = _observe(model, [step.output for group in loose for step in group.made], images)
    for group in loose:
        values = np.concatenate([samples[step.output] for step in group.made])
        signed = not all(tensor in positive for tensor in group.tensors)
        group.qparams = _best_qparams(values, signed, powers=group.sums)
    return {tensor: group.qparams for group in groups for tensor in group.tensors}


def _common_qparams(made: list[Step]) -> QuantParams:
    """The qparams of tensors that quantizers make, and that are moved together."""
    tensor_qparams: set[QuantParams] = {step.attributes["qparams"] for step in made}
    if len(tensor_qparams) > 1:
        names = ", ".join(repr(step.name) for step in made[:3])
        raise ExportError(f"modules {names} quantize with different steps what is then concatenated; use one quantizer")
    return tensor_qparams.pop()


def _groups(steps: FloatGraph) -> list[Group]:
    root = _roots(steps)
    groups: dict[str, Group] = {}
    for tensor in (steps.input, *(step.output for step in steps.steps)):
        groups.setdefault(root[tensor], Group([])).tensors.append(tensor)
    for step in steps.steps:
        if step.kind in MOVES:
            continue
        groups[root[step.output]].made.append(step)
        if step.kind == "quantize":
            groups[root[step.inputs[0]]].quantizers.append(step.attributes["qparams"])
        else:
            for tensor in step.inputs:
                groups[root[tensor]].read.append(step)
    return list(groups.values())


def _roots(steps: FloatGraph) -> dict[str, str]:
    """One tensor of its group for every tensor."""
    parent = {tensor: tensor for tensor in (steps.input, *(step.output for step in steps.steps))}

    def root(tensor: str) -> str:
        while parent[tensor] != tensor:
            tensor = parent[tensor]
        return tensor

    for step in steps.steps:
        if step.kind in MOVES:
            for tensor in step.inputs:
                parent[root(tensor)] = root(step.output)
    return {tensor: root(tensor) for tensor in parent}


def _is_real(group: Group, steps: FloatGraph) -> bool:
    """Whether a group holds what a layer kept float makes, or logits that need no codes."""
    if any(step.attributes.get("role") == "last" or step.attributes.get("behind") for step in group.made):
        return True
    if steps.output not in group.tensors:
        # What only the last layer reads, and a mean makes, is not rounded once more.
        only_mean = all(step.kind == "mean" for step in group.made)
        return only_mean and not group.quantizers and all(step.attributes.get("role") == "last" for step in group.read)
    of_linear = all(
        step.kind == "mean" or (step.kind == "layer" and step.attributes["window"] is None) for step in group.made
    )
    return of_linear and not group.read and not group.quantizers


def _never_negative(steps: FloatGraph) -> set[str]:
    """Tensors that cannot be negative, whatever the image."""
    found: set[str] = set()
    for step in steps.steps:
        limits = step.attributes.get("limits")
        if limits is not None:
            sure = limits[0] >= 0
        elif step.kind == "quantize":
            sure = step.attributes["qparams"].zero_point == 0
        elif step.kind == "function":
            sure = step.attributes["function"] in _NEVER_NEGATIVE
        else:
            sure = step.kind not in ("layer", "affine") and all(tensor in found for tensor in step.inputs)
        if sure:
            found.add(step.output)
    return found


def _observe(model: Any, tensors: list[str], images: Array) -> dict[str, Array]:
    """Some values of tensors on images, their largest and smallest among them."""
    found: dict[str, list[Array]] = {name: [] for name in tensors}
    for part in in_batches(len(images), _BATCH):
        for name, values in zip(tensors, run_with_intermediates(model, tensors, images[part]), strict=True):
            found[name] += [_sample(values), np.array([values.min(), values.max()])]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _sample(values: Array) -> Array:
    flat = values.ravel()
    return flat[:: stride(len(flat), _SAMPLE)]


def _best_qparams(values: Array, signed: bool, *, powers: bool) -> QuantParams:
    """The qparams of 8 bits with the least squared error on values; its step a power of two where asked for."""
    if not np.isfinite(values).all():
        raise ExportError("an activation is not finite on the calibration images; retrain the model")
    zero, top = (128, 127) if signed else (0, 255)
    peak = float(np.abs(values).max(initial=0))
    if peak == 0:
        return QuantParams(2.0**-7, zero)
    if powers:  # from the one that cuts off nothing downwards
        widest = int(np.ceil(np.log2(peak / top)))
        steps = [2.0 ** (widest - i) for i in range(3)]
    else:
        steps = [float(np.float32(peak * share / top)) for share in np.linspace(0.3, 1.0, 15)]
    return min((QuantParams(step, zero) for step in steps), key=lambda qparams: _error(values, qparams))


def _error(values: Array, qparams: QuantParams) -> float:
    codes = np.clip(np.rint(values / qparams.scale) + qparams.zero_point, qparams.qmin, qparams.qmax)
    return float(np.square(qparams.real(codes) - values).mean())
