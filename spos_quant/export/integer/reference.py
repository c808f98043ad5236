"""The integer graph in NumPy: the definition of what it computes. Sums are exact; rescalings are float32 operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np

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

_EXACT = 2**24
"""Whole numbers below this are float32 numbers."""
Tensor = tuple[Array, QuantParams | None]
"""Values, and the qparams where they are codes."""


def run(graph: IntegerGraph, images: Array, seen: Callable[[str, Array], None] | None = None) -> Array:
    """Logits `[n, classes]` of images `[n, C, H, W]`.

    Args:
        graph: The network.
        images: Preprocessed, float32.
        seen: Told every tensor by name.
    """
    tensors: dict[str, Tensor] = {graph.input: (np.asarray(images, dtype=np.float32), None)}
    for op in graph.ops:
        values = _step(op, *(tensors[name] for name in op.inputs))
        tensors[op.output] = values, op.qparams
        if seen is not None:
            seen(op.output, values)
    return real(tensors[graph.output])


def real(tensor: Tensor) -> Array:
    """The numbers of a tensor, float32."""
    values, qparams = tensor
    return np.asarray(values.astype(np.float32) if qparams is None else qparams.real(values))


def rounded(op: Op, steps: Array) -> Array:
    """Codes of real values that were divided by the step; real values pass, limited."""
    if op.qparams is None:
        return steps if op.limits is None else np.clip(steps, *op.limits).astype(np.float32)
    low, high = op.qparams.codes(op.limits)
    codes: Array = np.clip(np.rint(steps) + np.float32(op.qparams.zero_point), low, high)
    return codes.astype(np.uint8 if op.qparams.qmin >= 0 else np.int16)


def _divided(op: Op, values: Array) -> Array:
    return rounded(op, values if op.qparams is None else values / np.float32(op.qparams.scale))


@singledispatch
def _step(op: Op, *_inputs: Tensor) -> Array:
    raise TypeError(f"no such step: {type(op).__name__}")


@_step.register
def _(op: Quantize, x: Tensor) -> Array:
    return _divided(op, real(x))


@_step.register
def _(op: Layer, x: Tensor) -> Array:
    codes, qparams = x
    assert qparams is not None
    weight = op.weight.astype(np.int64) * op.factor
    total = sums(codes.astype(np.int64) - qparams.zero_point, weight, op.window, op.groups)
    bias = op.bias.reshape(-1, *[1] * (total.ndim - 2))
    return np.asarray(rescaled(op, qparams, (total + bias).astype(np.float32)))


def rescaled(op: Layer, qparams: QuantParams, total: Any) -> Any:
    """What a layer makes of its sums `[n, out, ...]`, float32."""
    unit = np.float32(qparams.scale) * op.scale
    shape = (-1, *[1] * (total.ndim - 2))
    if op.qparams is None:
        return rounded(op, total * unit.reshape(shape))
    if op.wide:  # as ONNX quantizes by channels: a division
        return rounded(op, total / divisors(op, qparams).reshape(shape))
    return rounded(op, total * (unit / np.float32(op.qparams.scale)).reshape(shape))


def divisors(op: Layer, qparams: QuantParams) -> Array:
    """What the sums of a wide layer are divided by, `[out]` float32."""
    assert op.qparams is not None
    found: Array = np.float32(op.qparams.scale) / (np.float32(qparams.scale) * op.scale)
    return found


@_step.register
def _(op: FloatLayer, x: Tensor) -> Array:
    total = _products(real(x).astype(np.float64), op.weight.astype(np.float64), op.window, op.groups)
    return rounded(op, (total + op.bias.reshape(-1, *[1] * (total.ndim - 2))).astype(np.float32))


@_step.register
def _(op: Add, a: Tensor, b: Tensor) -> Array:
    return _divided(op, real(a) + real(b))


@_step.register
def _(op: Multiply, a: Tensor, b: Tensor) -> Array:
    return _divided(op, real(a) * real(b))


@_step.register
def _(op: MaxPool, x: Tensor) -> Array:
    codes, qparams = x
    least = -np.inf if qparams is None else qparams.qmin
    return np.asarray(windows(codes, op.window, least).max((-2, -1)))


@_step.register
def _(op: AveragePool, x: Tensor) -> Array:
    values = real(x)
    total = windows(values, op.window, 0).sum((-2, -1))
    ones = np.ones_like(values[:1, :1])
    count = windows(ones, op.window, float(op.counts_padding)).sum((-2, -1))
    return _divided(op, (total / count).astype(np.float32))


@_step.register
def _(op: Mean, x: Tensor) -> Array:
    codes, qparams = x
    pixels = np.float32(codes.shape[2] * codes.shape[3])
    if qparams is None or op.qparams is None:
        mean = real(x).astype(np.float64).mean((2, 3), keepdims=op.keeps)
        return _divided(op, mean.astype(np.float32))
    total = (codes.astype(np.int64) - qparams.zero_point).sum((2, 3), keepdims=op.keeps)
    return rounded(op, total.astype(np.float32) * (np.float32(qparams.scale) / (np.float32(op.qparams.scale) * pixels)))


@_step.register
def _(op: Table, x: Tensor) -> Array:
    return np.asarray(op.table[x[0]])


@_step.register
def _(op: Concat, *inputs: Tensor) -> Array:
    return np.concatenate([values for values, _ in inputs], op.axis)


@_step.register
def _(op: Slice, x: Tensor) -> Array:
    part = [slice(None)] * x[0].ndim
    part[op.axis] = slice(op.start, op.stop, op.step)
    return np.asarray(x[0][tuple(part)])


@_step.register
def _(op: Pad, x: Tensor) -> Array:
    values, qparams = x
    widths = list(zip(op.before, op.after, strict=True))
    return np.pad(values, widths, constant_values=0 if qparams is None else qparams.zero_point)


@_step.register
def _(op: Reshape, x: Tensor) -> Array:
    return x[0].reshape(len(x[0]), *op.shape)


@_step.register
def _(op: Transpose, x: Tensor) -> Array:
    return x[0].transpose(op.order)


def sums(x: Array, weight: Array, window: Window | None, groups: int) -> Array:
    """Exact sums of products of whole numbers, in the narrowest float type that holds them all."""
    most = int(np.abs(x).max(initial=0)) * int(np.abs(weight).reshape(len(weight), -1).sum(1).max(initial=0))
    kind = np.float32 if most < _EXACT else np.float64
    return _products(x.astype(kind), weight.astype(kind), window, groups).astype(np.int64)


def _products(x: Array, weight: Array, window: Window | None, groups: int) -> Array:
    """`[n, out, ...]` sums of products; the padding is zero."""
    if window is None:
        return np.asarray(x @ weight.T)
    seen = windows(x, window, 0)
    n, channels, height, width = seen.shape[:4]
    inside = channels // groups
    # [n, groups, in / groups, H, W, kernel] -> [groups, in / groups * kernel, n * H * W]
    columns = seen.reshape(n, groups, inside, height, width, -1).transpose(1, 2, 5, 0, 3, 4)
    columns = columns.reshape(groups, -1, n * height * width)
    found = weight.reshape(groups, len(weight) // groups, -1) @ columns
    return np.asarray(found.reshape(len(weight), n, height, width).transpose(1, 0, 2, 3))


def windows(x: Array, window: Window, padding: float) -> Array:
    """`[n, C, H', W', kernel]` views of pictures `[n, C, H, W]`, with `padding` around them."""
    top, left, bottom, right = window.padding
    if window.ceil:
        bottom += _over(x.shape[2] + top + bottom, window, 0)
        right += _over(x.shape[3] + left + right, window, 1)
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(x, around, constant_values=padding) if any(map(any, around)) else x
    spans = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3))
    return seen[:, :, :: window.stride[0], :: window.stride[1], :: window.dilation[0], :: window.dilation[1]]


def _over(size: int, window: Window, axis: int) -> int:
    """Rows that a last window, begun inside, reaches over the end."""
    span = window.dilation[axis] * (window.kernel[axis] - 1) + 1
    rest = (size - span) % window.stride[axis]
    return window.stride[axis] - rest if rest else 0
