"""Chooses the quantization parameters of every tensor between layers.

Inputs and outputs of operations that move values (max pooling, concatenation, slicing) share their parameters. A tensor
that only one quantizer reads takes the parameters of that quantizer, which saves a second rounding. Every other tensor
has 8 bits and the scale with the least squared error on calibration images. Operands and results of sums and products,
for example of residual additions, have powers of two as scales: they are then exact in float32 and equal in every
runtime.
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
"""Values sampled per tensor and batch to choose a scale."""
_BATCH = 16
_SUMS = ("add", "multiply", "avgpool")
"""Kinds whose inputs and outputs need powers of two as scales, so that their results are exact."""
_NON_NEGATIVE = ("Sigmoid", "HardSigmoid", "Softplus")


@dataclass
class Group:
    """Tensors that share quantization parameters."""

    tensors: list[str]
    made: list[Step] = field(default_factory=list)
    """Operations that compute them, except those that only move values."""
    quantizers: list[QuantParams] = field(default_factory=list)
    """Parameters of the quantizers that read them."""
    read: list[Step] = field(default_factory=list)
    """Other operations that read them."""
    qparams: QuantParams | None = None

    @property
    def sums(self) -> bool:
        """Whether a sum, product or average computes or reads one of them."""
        return any(step.kind in _SUMS for step in (*self.made, *self.read))


def assign_qparams(network: FloatGraph, model: Any, images: Array) -> dict[str, QuantParams | None]:
    """Tensor name -> quantization parameters; None for real numbers.

    Args:
        network: The network, after fusion.
        model: The QCDQ model that it was read from.
        images: Calibration images `[n, C, H, W]`.

    Raises:
        ExportError: an activation is not finite, or tensors with different scales are concatenated.
    """
    groups = _groups(network)
    non_negative = _non_negative(network)
    to_calibrate: list[Group] = []
    for group in groups:
        if network.input in group.tensors or _is_real(group, network):
            continue
        if {step.kind for step in group.made} == {"quantize"}:
            group.qparams = _common_qparams(group.made)
        elif len(set(group.quantizers)) == 1 and not group.read and not group.sums:
            group.qparams = group.quantizers[0]
        else:
            to_calibrate.append(group)
    samples = _observe(model, [step.output for group in to_calibrate for step in group.made], images)
    for group in to_calibrate:
        values = np.concatenate([samples[step.output] for step in group.made])
        signed = not all(tensor in non_negative for tensor in group.tensors)
        group.qparams = _best_qparams(values, signed, power_of_two=group.sums)
    return {tensor: group.qparams for group in groups for tensor in group.tensors}


def _common_qparams(made: list[Step]) -> QuantParams:
    """The quantization parameters of tensors that quantizers compute and that belong to one group."""
    different: set[QuantParams] = {step.attributes["qparams"] for step in made}
    if len(different) > 1:
        names = ", ".join(repr(step.name) for step in made[:3])
        raise ExportError(f"modules {names} quantize concatenated tensors at different scales; use one quantizer")
    return different.pop()


def _groups(network: FloatGraph) -> list[Group]:
    root = _roots(network)
    groups: dict[str, Group] = {}
    for tensor in (network.input, *(step.output for step in network.steps)):
        groups.setdefault(root[tensor], Group([])).tensors.append(tensor)
    for step in network.steps:
        if step.kind in MOVES:
            continue
        groups[root[step.output]].made.append(step)
        if step.kind == "quantize":
            groups[root[step.inputs[0]]].quantizers.append(step.attributes["qparams"])
        else:
            for tensor in step.inputs:
                groups[root[tensor]].read.append(step)
    return list(groups.values())


def _roots(network: FloatGraph) -> dict[str, str]:
    """Tensor -> the tensor that represents its group."""
    parent = {tensor: tensor for tensor in (network.input, *(step.output for step in network.steps))}

    def root(tensor: str) -> str:
        while parent[tensor] != tensor:
            tensor = parent[tensor]
        return tensor

    for step in network.steps:
        if step.kind in MOVES:
            for tensor in step.inputs:
                parent[root(tensor)] = root(step.output)
    return {tensor: root(tensor) for tensor in parent}


def _is_real(group: Group, network: FloatGraph) -> bool:
    """Whether a group stays real: outputs of a float last layer, its pooled input, or logits that need no codes."""
    if any(step.attributes.get("role") == "last" or step.attributes.get("behind") for step in group.made):
        return True
    if network.output not in group.tensors:
        # A mean that only a float last layer reads stays real, which saves a rounding.
        only_mean = all(step.kind == "mean" for step in group.made)
        return only_mean and not group.quantizers and all(step.attributes.get("role") == "last" for step in group.read)
    of_linear = all(
        step.kind == "mean" or (step.kind == "layer" and step.attributes["window"] is None) for step in group.made
    )
    return of_linear and not group.read and not group.quantizers


def _non_negative(network: FloatGraph) -> set[str]:
    """Tensors that are never negative."""
    found: set[str] = set()
    for step in network.steps:
        limits = step.attributes.get("limits")
        if limits is not None:
            sure = limits[0] >= 0
        elif step.kind == "quantize":
            sure = step.attributes["qparams"].zero_point == 0
        elif step.kind == "function":
            sure = step.attributes["function"] in _NON_NEGATIVE
        else:
            sure = step.kind not in ("layer", "affine") and all(tensor in found for tensor in step.inputs)
        if sure:
            found.add(step.output)
    return found


def _observe(model: Any, tensors: list[str], images: Array) -> dict[str, Array]:
    """Sampled values of tensors on images, with the minimum and the maximum of each batch."""
    found: dict[str, list[Array]] = {name: [] for name in tensors}
    for part in in_batches(len(images), _BATCH):
        for name, values in zip(tensors, run_with_intermediates(model, tensors, images[part]), strict=True):
            found[name] += [_sample(values), np.array([values.min(), values.max()])]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _sample(values: Array) -> Array:
    flat = values.ravel()
    return flat[:: stride(len(flat), _SAMPLE)]


def _best_qparams(values: Array, signed: bool, *, power_of_two: bool) -> QuantParams:
    """8-bit quantization parameters with the least squared error on values."""
    if not np.isfinite(values).all():
        raise ExportError("an activation is not finite on the calibration images; retrain the model")
    zero_point, top = (128, 127) if signed else (0, 255)
    peak = float(np.abs(values).max(initial=0))
    if peak == 0:
        return QuantParams(2.0**-7, zero_point)
    if power_of_two:  # the smallest scale that clips nothing, and two smaller ones
        widest = int(np.ceil(np.log2(peak / top)))
        scales = [2.0 ** (widest - i) for i in range(3)]
    else:
        scales = [float(np.float32(peak * share / top)) for share in np.linspace(0.3, 1.0, 15)]
    return min((QuantParams(scale, zero_point) for scale in scales), key=lambda qparams: _error(values, qparams))


def _error(values: Array, qparams: QuantParams) -> float:
    codes = np.clip(np.rint(values / qparams.scale) + qparams.zero_point, qparams.qmin, qparams.qmax)
    return float(np.square(qparams.real(codes) - values).mean())
