"""The integer graph as a torch module, which trains the network that is deployed.

The forward pass computes the integers of the reference. In the backward pass, the straight-through estimator treats
rounding as the identity and saturation as a clip [Bengio2013]. Scales are fixed; weights, biases and a float last layer
are learned.

References:
    [Bengio2013] Estimating or propagating gradients through stochastic neurons, arXiv 1308.3432.
"""

from __future__ import annotations

from functools import singledispatchmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spos_quant.export.integer.functions import value_of
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
    unlike,
)
from spos_quant.export.integer.reference import divisors

_LARGEST_SUM = 2**31 - 1
_EXACT_SUM = 2**24 - 1


class IntegerNet(nn.Module):
    """A trainable integer graph. Tensors of codes hold the integers `code - zero_point`.

    Args:
        graph: The integer graph.
    """

    def __init__(self, graph: IntegerGraph) -> None:
        super().__init__()
        self._graph, self._qparams = graph, graph.tensor_qparams()
        self.parts = nn.ModuleList(_part(op, self._qparams) for op in graph.ops)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, classes]` of images `[n, C, H, W]`."""
        tensors: dict[str, Tensor] = {self._graph.input: x}
        for op, part in zip(self._graph.ops, self.parts, strict=True):
            tensors[op.output] = part(*(tensors[name] for name in op.inputs))
        last = tensors[self._graph.output]
        qparams = self._qparams[self._graph.output]
        return last if qparams is None else last * qparams.scale

    @torch.no_grad()
    def graph(self) -> IntegerGraph:
        """The integer graph with the current weights and biases."""
        ops = tuple(part.current_op() for part in self.parts)  # type: ignore[operator]
        return IntegerGraph(self._graph.input, self._graph.shape, self._graph.output, ops)


def _part(op: Op, tensor_qparams: dict[str, QuantParams | None]) -> nn.Module:
    inputs = [tensor_qparams[name] for name in op.inputs]
    if isinstance(op, Layer):
        return _IntegerPart(op, inputs[0])
    if isinstance(op, FloatLayer):
        return _FloatPart(op, inputs[0])
    return _TablePart(op, inputs[0]) if isinstance(op, Table) else _PlainPart(op, inputs)


class _StraightThrough(torch.autograd.Function):
    """Returns `other` in the forward pass; passes the gradient to `x` in the backward pass."""

    @staticmethod
    def forward(_ctx: object, _x: Tensor, other: Tensor) -> Tensor:
        return other.clone()

    @staticmethod
    def backward(_ctx: object, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0], None


def _straight_through(x: Tensor, other: Tensor) -> Tensor:
    replaced: Tensor = _StraightThrough.apply(x, other.detach())
    return replaced


def _rounded(x: Tensor) -> Tensor:
    """Rounds half to even, with a straight-through gradient."""
    return _straight_through(x, torch.round(x))


def _saturated(op: Op, scaled: Tensor) -> Tensor:
    """The output `code - zero_point` of values divided by the output scale; real outputs are only clipped."""
    if op.qparams is None:
        return scaled if op.limits is None else scaled.clamp(*op.limits)
    low, high = op.qparams.codes(op.limits)
    return _rounded(scaled).clamp(low - op.qparams.zero_point, high - op.qparams.zero_point)


def _real(x: Tensor, qparams: QuantParams | None) -> Tensor:
    return x if qparams is None else x * qparams.scale


class _IntegerPart(nn.Module):
    """An integer layer with float master weights and biases."""

    def __init__(self, op: Layer, qparams: QuantParams | None) -> None:
        super().__init__()
        assert qparams is not None
        self.op, self.qparams = op, qparams
        self.rank = op.weight.ndim
        unit = np.float32(qparams.scale) * op.scale
        self._put("weight_scale", op.scale * np.float32(op.factor))
        self._put("bias_scale", unit)
        self._put("alive", op.alive.astype(np.float32))
        if op.qparams is not None:
            self._put("requantization", divisors(op, qparams) if op.wide else unit / np.float32(op.qparams.scale))
        self.weight_scale: Tensor
        self.bias_scale: Tensor
        self.alive: Tensor
        self.requantization: Tensor
        """A factor, or a divisor for wide layers."""
        # Other weights could make the sums of a wide layer inexact.
        fixed = op.wide or not op.layer
        weight = torch.from_numpy(op.weight.astype(np.float32)) * self._column(self.weight_scale)
        self.weight = nn.Parameter(weight, requires_grad=not fixed)
        self.bias = nn.Parameter(torch.from_numpy(op.bias.astype(np.float32)) * self.bias_scale)

    def _put(self, name: str, values: Array) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)

    def _column(self, channels: Tensor) -> Tensor:
        return channels.reshape(-1, *[1] * (self.rank - 1))

    def codes(self) -> Tensor:
        """The weight as integers in the range of its bits."""
        scaled = self.weight / self._column(self.weight_scale)
        if self.op.wide or not self.op.layer:
            return scaled.round()
        bits = self.op.weight_bits
        assert bits is not None
        if self.op.odd:
            qmax = 2**bits - 1
            rounded = 2 * torch.round((scaled - 1) / 2) + 1
        else:
            qmax = max(2 ** (bits - 1) - 1, int(np.abs(self.op.weight.astype(int)).max(initial=0)))
            rounded = torch.round(scaled)
        return self._column(self.alive) * _straight_through(scaled, rounded.clamp(-qmax, qmax))

    def integer_bias(self) -> Tensor:
        """The bias in units of its scale, clipped so that no sum overflows."""
        weight = self.codes().detach().abs().flatten(1).sum(1).double() * self.op.factor
        largest_input = max(self.qparams.qmax - self.qparams.zero_point, self.qparams.zero_point - self.qparams.qmin)
        slack = (_EXACT_SUM if self.op.wide else _LARGEST_SUM) - weight * largest_input
        return _rounded(self.bias.double() / self.bias_scale.double()).clamp(-slack, slack)

    def forward(self, x: Tensor) -> Tensor:
        op = self.op
        sums = _products(x, self.codes() * op.factor, op.window, op.groups)
        shape = (-1, *[1] * (sums.dim() - 2))
        sums = (sums.double() + self.integer_bias().reshape(shape)).float()
        if op.qparams is None:
            return _saturated(op, sums * self.bias_scale.reshape(shape))
        requantization = self.requantization.reshape(shape)
        return _saturated(op, sums / requantization if op.wide else sums * requantization)

    def current_op(self) -> Layer:
        """The layer with the current integers."""
        weight = self.codes().cpu().numpy().astype(self.op.weight.dtype)
        bias = self.integer_bias().cpu().numpy().astype(np.int32)
        made = unlike(self.op, weight=weight, bias=bias)
        assert isinstance(made, Layer)
        return made


class _FloatPart(nn.Module):
    """A float last layer."""

    def __init__(self, op: FloatLayer, qparams: QuantParams | None) -> None:
        super().__init__()
        self.op, self.qparams = op, qparams
        self.weight, self.bias = (nn.Parameter(torch.from_numpy(array.copy())) for array in (op.weight, op.bias))

    def forward(self, x: Tensor) -> Tensor:
        total = _products(_real(x, self.qparams), self.weight, self.op.window, self.op.groups)
        return _saturated(self.op, total + self.bias.reshape(-1, *[1] * (total.dim() - 2)))

    def current_op(self) -> FloatLayer:
        """The layer with the current weights."""
        made = unlike(self.op, weight=self.weight.cpu().numpy().copy(), bias=self.bias.cpu().numpy().copy())
        assert isinstance(made, FloatLayer)
        return made


class _TablePart(nn.Module):
    """A lookup table; its gradient is the slope of the function."""

    def __init__(self, op: Table, qparams: QuantParams | None) -> None:
        super().__init__()
        assert qparams is not None
        assert op.qparams is not None
        self.op, self.qparams = op, qparams
        x, h = qparams.real(np.arange(256)).astype(np.float64), qparams.scale / 2
        rise = value_of(op.function, op.parameters, x + h) - value_of(op.function, op.parameters, x - h)
        values = torch.from_numpy(op.table.astype(np.float32)) - op.qparams.zero_point
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("slope", torch.from_numpy((rise / op.qparams.scale).astype(np.float32)), persistent=False)
        self.values: Tensor
        self.slope: Tensor

    def forward(self, x: Tensor) -> Tensor:
        codes = (x.detach() + self.qparams.zero_point).long()
        return self.values[codes] + (x - x.detach()) * self.slope[codes]

    def current_op(self) -> Op:
        """The table."""
        return self.op


class _PlainPart(nn.Module):
    """An operation without parameters."""

    def __init__(self, op: Op, tensor_qparams: list[QuantParams | None]) -> None:
        super().__init__()
        self.op, self.tensor_qparams = op, tensor_qparams

    def forward(self, *inputs: Tensor) -> Tensor:
        made: Tensor = self.made(self.op, *inputs)
        return made

    def current_op(self) -> Op:
        """The operation."""
        return self.op

    def _divided(self, op: Op, values: Tensor) -> Tensor:
        return _saturated(op, values if op.qparams is None else values / op.qparams.scale)

    def _reals(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return [_real(x, qparams) for x, qparams in zip(inputs, self.tensor_qparams, strict=True)]

    @singledispatchmethod
    def made(self, op: Op, *_inputs: Tensor) -> Tensor:
        raise TypeError(f"unknown operation: {type(op).__name__}")

    @made.register
    def _(self, op: Quantize, *inputs: Tensor) -> Tensor:
        return self._divided(op, self._reals(inputs)[0])

    @made.register
    def _(self, op: Add, *inputs: Tensor) -> Tensor:
        a, b = self._reals(inputs)
        return self._divided(op, a + b)

    @made.register
    def _(self, op: Multiply, *inputs: Tensor) -> Tensor:
        a, b = self._reals(inputs)
        return self._divided(op, a * b)

    @made.register
    def _(self, op: MaxPool, *inputs: Tensor) -> Tensor:
        qparams, window = self.tensor_qparams[0], op.window
        x = _padded(inputs[0], window, float("-inf") if qparams is None else float(qparams.qmin - qparams.zero_point))
        return F.max_pool2d(x, window.kernel, window.stride, 0, window.dilation, window.ceil)

    @made.register
    def _(self, op: AveragePool, *inputs: Tensor) -> Tensor:
        x, window = self._reals(inputs)[0], op.window
        ones = _padded(torch.ones_like(x[:1, :1]), window, float(op.counts_padding))
        pairs = [F.avg_pool2d(values, window.kernel, window.stride) for values in (_padded(x, window, 0.0), ones)]
        return self._divided(op, pairs[0] / pairs[1])

    @made.register
    def _(self, op: Mean, *inputs: Tensor) -> Tensor:
        qparams = self.tensor_qparams[0]
        if qparams is None or op.qparams is None:
            return self._divided(op, _real(inputs[0], qparams).mean((2, 3), keepdim=op.keeps))
        total = inputs[0].sum((2, 3), keepdim=op.keeps)
        pixels = np.float32(inputs[0].shape[2] * inputs[0].shape[3])
        return _saturated(op, total * float(np.float32(qparams.scale) / (np.float32(op.qparams.scale) * pixels)))

    @made.register
    def _(self, op: Concat, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, op.axis)

    @made.register
    def _(self, op: Slice, *inputs: Tensor) -> Tensor:
        part = [slice(None)] * inputs[0].dim()
        part[op.axis] = slice(op.start, op.stop, op.step)
        return inputs[0][tuple(part)]

    @made.register
    def _(self, op: Pad, *inputs: Tensor) -> Tensor:
        widths = [width for pair in zip(op.before[::-1], op.after[::-1], strict=True) for width in pair]
        return F.pad(inputs[0], widths)

    @made.register
    def _(self, op: Reshape, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(len(inputs[0]), *op.shape)

    @made.register
    def _(self, op: Transpose, *inputs: Tensor) -> Tensor:
        return inputs[0].permute(op.order)


def _padded(x: Tensor, window: Window, value: float) -> Tensor:
    top, left, bottom, right = window.padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(window.padding) else x


def _products(x: Tensor, weight: Tensor, window: Window | None, groups: int) -> Tensor:
    if window is None:
        return F.linear(x, weight)
    return F.conv2d(_padded(x, window, 0.0), weight, None, window.stride, 0, window.dilation, groups)
