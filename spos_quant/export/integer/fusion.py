"""FloatGraph joined to fewer: BatchNorm and activations go into what makes their input, where nobody else reads it."""

from __future__ import annotations

import numpy as np

from spos_quant.errors import ExportError
from spos_quant.export.integer.float_graph import FloatGraph, Step
from spos_quant.export.integer.graph import Limits

_LIMITED = ("layer", "affine", "add", "multiply", "mean", "avgpool")
"""Kinds that an activation is joined to: their codes saturate where it limits them."""


def fuse(steps: FloatGraph) -> FloatGraph:
    """The same network in fewer steps."""
    _drop_unused(steps)
    _find_products_with_own_function(steps)
    _drop_unused(steps)
    for step in list(steps.steps):
        maker = steps.maker(step.inputs[0]) if step.kind in ("affine", "limits") else None
        if maker is None or steps.output == maker.output or len(steps.users(maker.output)) > 1:
            continue
        if step.kind == "affine" and maker.kind == "layer" and "limits" not in maker.attributes:
            _join_affine(maker, step)
        elif step.kind == "limits" and maker.kind in _LIMITED:
            maker.attributes["limits"] = _both(maker.attributes.get("limits"), step.attributes["limits"])
        else:
            continue
        maker.output = step.output
        steps.steps.remove(step)
    return steps


def _drop_unused(steps: FloatGraph) -> None:
    needed = {steps.output}
    kept = []
    for step in reversed(steps.steps):
        if step.output in needed:
            kept.append(step)
            needed.update(step.inputs)
    steps.steps = kept[::-1]


def _find_products_with_own_function(steps: FloatGraph) -> None:
    """`x * f(x)` is a function of x."""
    for step in steps.steps:
        if step.kind != "multiply":
            continue
        for x, other in (step.inputs, step.inputs[::-1]):
            maker = steps.maker(other)
            if maker is not None and maker.kind == "function" and maker.inputs == [x]:
                step.kind, step.inputs = "function", [x]
                step.attributes = {**maker.attributes, "function": f"x*{maker.attributes['function']}"}
                break


def _join_affine(layer: Step, affine: Step) -> None:
    """`factor * (w x + bias) + shift` has the factor in the scale, its sign in the integers."""
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
            f"layer {layer.name!r} has the weight -128, whose sign BatchNorm turns; use quantizers of a narrow range"
        )
    attributes["weight"] = attributes["weight"].astype(np.int16) * np.sign(column).astype(np.int16)
    attributes["scale"] = np.where(factor == 0, attributes["scale"], attributes["scale"] * np.abs(factor))


def _both(one: Limits | None, other: Limits) -> Limits:
    low, high = one or (-np.inf, np.inf)
    return max(low, min(other[0], high)), min(high, max(other[1], low))
