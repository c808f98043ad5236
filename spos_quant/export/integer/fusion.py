"""Fuses BatchNorm and clipping activations into the operation that computes their input, if nothing else reads it."""

from __future__ import annotations

import numpy as np

from spos_quant.errors import ExportError
from spos_quant.export.integer.float_graph import FloatGraph, Step
from spos_quant.export.integer.graph import Limits

_LIMITED = ("layer", "affine", "add", "multiply", "mean", "avgpool")
"""Kinds that a clipping activation is fused into; saturation of their codes implements it."""


def fuse(network: FloatGraph) -> FloatGraph:
    """The same network with fewer operations; changes `network` in place."""
    _drop_unused(network)
    _fuse_self_gating(network)
    _drop_unused(network)
    for step in list(network.steps):
        maker = network.maker(step.inputs[0]) if step.kind in ("affine", "limits") else None
        if maker is None or network.output == maker.output or len(network.users(maker.output)) > 1:
            continue
        if step.kind == "affine" and maker.kind == "layer" and "limits" not in maker.attributes:
            _fold_affine(maker, step)
        elif step.kind == "limits" and maker.kind in _LIMITED:
            maker.attributes["limits"] = _composed(maker.attributes.get("limits"), step.attributes["limits"])
        else:
            continue
        maker.output = step.output
        network.steps.remove(step)
    return network


def _drop_unused(network: FloatGraph) -> None:
    needed = {network.output}
    kept = []
    for step in reversed(network.steps):
        if step.output in needed:
            kept.append(step)
            needed.update(step.inputs)
    network.steps = kept[::-1]


def _fuse_self_gating(network: FloatGraph) -> None:
    """Turns `x * f(x)`, for example SiLU, into one elementwise function of x."""
    for step in network.steps:
        if step.kind != "multiply":
            continue
        for x, other in (step.inputs, step.inputs[::-1]):
            maker = network.maker(other)
            if maker is not None and maker.kind == "function" and maker.inputs == [x]:
                step.kind, step.inputs = "function", [x]
                step.attributes = {**maker.attributes, "function": f"x*{maker.attributes['function']}"}
                break


def _fold_affine(layer: Step, affine: Step) -> None:
    """Folds `factor * (w x + bias) + shift`: the scale takes the magnitude of the factor, the integers its sign."""
    attributes = layer.attributes
    outputs = len(attributes["weight"])
    factor, shift = (np.broadcast_to(affine.attributes[key], outputs) for key in ("factor", "shift"))
    attributes["bias"] = attributes["bias"] * factor + shift
    column = factor.reshape(-1, *[1] * (attributes["weight"].ndim - 1))
    if attributes["scale"] is None:
        attributes["weight"] = attributes["weight"] * column
        return
    if attributes["weight"].min() < -127 and (factor < 0).any():
        raise ExportError(
            f"layer {layer.name!r} has the weight -128, which BatchNorm negates; use narrow-range weight quantizers"
        )
    attributes["weight"] = attributes["weight"].astype(np.int16) * np.sign(column).astype(np.int16)
    attributes["scale"] = np.where(factor == 0, attributes["scale"], attributes["scale"] * np.abs(factor))


def _composed(inner: Limits | None, outer: Limits) -> Limits:
    """The limits of clipping to `inner`, then to `outer`."""
    low, high = inner or (-np.inf, np.inf)
    return max(low, min(outer[0], high)), min(high, max(outer[1], low))
