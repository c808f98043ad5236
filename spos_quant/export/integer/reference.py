"""NumPy reference of the integer graph. Sums are exact; requantizations are float32 operations."""

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
"""float32 holds all integers below this exactly."""
Tensor = tuple[Array, QuantParams | None]
"""Values, and their quantization parameters if they are codes."""


def run(graph: IntegerGraph, images: Array, seen: Callable[[str, Array], None] | None = None) -> Array:
    """Logits `[n, classes]` of images `[n, C, H, W]`.

    Args:
        graph: The network.
        images: Preprocessed, float32.
        seen: Callback `(tensor name, values)`, called for the output of every operation.
    """
    tensors: dict[str, Tensor] = {graph.input: (np.asarray(images, dtype=np.float32), None)}
    for op in graph.ops:
        values = _execute(op, *(tensors[name] for name in op.inputs))
        tensors[op.output] = values, op.qparams
        if seen is not None:
            seen(op.output, values)
    return real(tensors[graph.output])


def real(tensor: Tensor) -> Array:
    """The real numbers of a tensor, float32."""
    values, qparams = tensor
    return np.asarray(values.astype(np.float32) if qparams is None else qparams.real(values))


def rounded(op: Op, scaled: Array) -> Array:
    """Output codes of real values that are already divided by the output scale; real outputs are only clipped."""
    if op.qparams is None:
        return scaled if op.limits is None else np.clip(scaled, *op.limits).astype(np.float32)
    low, high = op.qparams.codes(op.limits)
    codes: Array = np.clip(np.rint(scaled) + np.float32(op.qparams.zero_point), low, high)
    return codes.astype(np.uint8 if op.qparams.qmin >= 0 else np.int16)


def _divided(op: Op, values: Array) -> Array:
    return rounded(op, values if op.qparams is None else values / np.float32(op.qparams.scale))


@singledispatch
def _execute(op: Op, *_inputs: Tensor) -> Array:
    raise TypeError(f"unknown operation: {type(op).__name__}")


@_execute.register
def _(op: Quantize, x: Tensor) -> Array:
    return _divided(op, real(x))


@_execute.register
def _(op: Layer, x: Tensor) -> Array:
    codes, qparams = x
    assert qparams is not None
    weight = op.weight.astype(np.int64) * op.factor
    total = sums(codes.astype(np.int64) - qparams.zero_point, weight, op.window, op.groups)
    bias = op.bias.reshape(-1, *[1] * (total.ndim - 2))
    return np.asarray(rescaled(op, qparams, (total + bias).astype(np.float32)))


def rescaled(op: Layer, qparams: QuantParams, total: Any) -> Any:
    """The output of a layer from its sums `[n, out, ...]`, float32."""
    unit = np.float32(qparams.scale) * op.scale
    shape = (-1, *[1] * (total.ndim - 2))
    if op.qparams is None:
        return rounded(op, total * unit.reshape(shape))
    if op.wide:  # divide, as per-channel QuantizeLinear of ONNX does
        return rounded(op, total / divisors(op, qparams).reshape(shape))
    return rounded(op, total * (unit / np.float32(op.qparams.scale)).reshape(shape))


def divisors(op: Layer, qparams: QuantParams) -> Array:
    """What the sums of a wide layer are divided by, `[out]` float32."""
    assert op.qparams is not None
    divisor: Array = np.float32(op.qparams.scale) / (np.float32(qparams.scale) * op.scale)
    return divisor


@_execute.register
def _(op: FloatLayer, x: Tensor) -> Array:
    total = _products(real(x).astype(np.float64), op.weight.astype(np.float64), op.window, op.groups)
    return rounded(op, (total + op.bias.reshape(-1, *[1] * (total.ndim - 2))).astype(np.float32))


@_execute.register
def _(op: Add, a: Tensor, b: Tensor) -> Array:
    return _divided(op, real(a) + real(b))


@_execute.register
def _(op: Multiply, a: Tensor, b: Tensor) -> Array:
    return _divided(op, real(a) * real(b))


@_execute.register
def _(op: MaxPool, x: Tensor) -> Array:
    codes, qparams = x
    lowest = -np.inf if qparams is None else qparams.qmin
    return np.asarray(windows(codes, op.window, lowest).max((-2, -1)))


@_execute.register
def _(op: AveragePool, x: Tensor) -> Array:
    values = real(x)
    total = windows(values, op.window, 0).sum((-2, -1))
    ones = np.ones_like(values[:1, :1])
    count = windows(ones, op.window, float(op.counts_padding)).sum((-2, -1))
    return _divided(op, (total / count).astype(np.float32))


@_execute.register
def _(op: Mean, x: Tensor) -> Array:
    codes, qparams = x
    pixels = np.float32(codes.shape[2] * codes.shape[3])
    if qparams is None or op.qparams is None:
        mean = real(x).astype(np.float64).mean((2, 3), keepdims=op.keeps)
        return _divided(op, mean.astype(np.float32))
    total = (codes.astype(np.int64) - qparams.zero_point).sum((2, 3), keepdims=op.keeps)
    return rounded(op, total.astype(np.float32) * (np.float32(qparams.scale) / (np.float32(op.qparams.scale) * pixels)))


@_execute.register
def _(op: Table, x: Tensor) -> Array:
    return np.asarray(op.table[x[0]])


@_execute.register
def _(op: Concat, *inputs: Tensor) -> Array:
    return np.concatenate([values for values, _ in inputs], op.axis)


@_execute.register
def _(op: Slice, x: Tensor) -> Array:
    part = [slice(None)] * x[0].ndim
    part[op.axis] = slice(op.start, op.stop, op.step)
    return np.asarray(x[0][tuple(part)])


@_execute.register
def _(op: Pad, x: Tensor) -> Array:
    values, qparams = x
    widths = list(zip(op.before, op.after, strict=True))
    return np.pad(values, widths, constant_values=0 if qparams is None else qparams.zero_point)


@_execute.register
def _(op: Reshape, x: Tensor) -> Array:
    return x[0].reshape(len(x[0]), *op.shape)


@_execute.register
def _(op: Transpose, x: Tensor) -> Array:
    return x[0].transpose(op.order)


def sums(x: Array, weight: Array, window: Window | None, groups: int) -> Array:
    """Exact sums of products of integers, computed in float32 if that is exact, else in float64."""
    largest = int(np.abs(x).max(initial=0)) * int(np.abs(weight).reshape(len(weight), -1).sum(1).max(initial=0))
    dtype = np.float32 if largest < _EXACT else np.float64
    return _products(x.astype(dtype), weight.astype(dtype), window, groups).astype(np.int64)


def _products(x: Array, weight: Array, window: Window | None, groups: int) -> Array:
    """Convolution or matrix product without bias, `[n, out, ...]`, with zero padding."""
    if window is None:
        return np.asarray(x @ weight.T)
    patches = windows(x, window, 0)
    n, channels, height, width = patches.shape[:4]
    group_inputs = channels // groups
    # [n, groups, in / groups, H, W, kernel] -> [groups, in / groups * kernel, n * H * W]
    columns = patches.reshape(n, groups, group_inputs, height, width, -1).transpose(1, 2, 5, 0, 3, 4)
    columns = columns.reshape(groups, -1, n * height * width)
    total = weight.reshape(groups, len(weight) // groups, -1) @ columns
    return np.asarray(total.reshape(len(weight), n, height, width).transpose(1, 0, 2, 3))


def windows(x: Array, window: Window, padding: float) -> Array:
    """Views `[n, C, H', W', *kernel]` of images `[n, C, H, W]`, padded with the value `padding`."""
    top, left, bottom, right = window.padding
    if window.ceil:
        bottom += _ceil_padding(x.shape[2] + top + bottom, window, 0)
        right += _ceil_padding(x.shape[3] + left + right, window, 1)
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(x, around, constant_values=padding) if any(map(any, around)) else x
    spans = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3))
    return views[:, :, :: window.stride[0], :: window.stride[1], :: window.dilation[0], :: window.dilation[1]]


def _ceil_padding(size: int, window: Window, axis: int) -> int:
    """Rows of padding that complete the last window in `ceil_mode`."""
    span = window.dilation[axis] * (window.kernel[axis] - 1) + 1
    rest = (size - span) % window.stride[axis]
    return window.stride[axis] - rest if rest else 0
