"""The integer graph: a network whose tensors between layers hold integer codes.

A code stands for the real number `scale * (code - zero_point)`. Codes are uint8 at every bit-width, so that any integer
runtime supports them. Only the input of a first layer that was kept float has more bits (`Layer.wide`). A tensor
without quantization parameters holds real numbers, for example the images and the output of the last layer.

All scales are float32. Every requantization is one float32 multiplication or division, then rounding half to even, then
saturation. The module `reference` executes the graph and defines its results.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Limits = tuple[float, float]
"""Smallest and largest real output of a clipping activation, for example (0, 6) for ReLU6; infinite if unbounded."""


@dataclass(frozen=True)
class QuantParams:
    """Quantization parameters of a tensor: the real number of each code, and the range of codes."""

    scale: float
    """A float32 number."""
    zero_point: int = 0
    """The code of the real number 0."""
    qmin: int = 0
    qmax: int = 255

    def codes(self, limits: Limits | None) -> tuple[int, int]:
        """The smallest and the largest code within limits."""
        if limits is None:
            return self.qmin, self.qmax
        low, high = (np.clip(np.rint(limit / self.scale) + self.zero_point, self.qmin, self.qmax) for limit in limits)
        return int(low), int(high)

    def real(self, codes: Array) -> Array:
        """The real numbers of codes, as float32."""
        return (codes.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operation of the graph.

    Attributes:
        name: The module in the float network that it comes from; unique among layers.
        inputs: Names of the input tensors.
        output: Name of the output tensor.
        qparams: Quantization parameters of the output; None if the output holds real numbers.
        limits: Limits of an activation that was fused into the operation.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    qparams: QuantParams | None = None
    limits: Limits | None = None


@dataclass(frozen=True, kw_only=True)
class Quantize(Op):
    """Quantizes real numbers or requantizes codes: `rint(x / scale) + zero_point`, saturated."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Geometry of a convolution or pooling window."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, bottom, right."""
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False
    """Whether the output size is rounded up, as in PyTorch's `ceil_mode`."""


@dataclass(frozen=True, kw_only=True)
class Layer(Op):
    """An integer convolution or linear layer: `factor * sum((x - zero_point) * weight) + bias`, then requantization.

    Attributes:
        weight: Integers `[out, in / groups, kernel]` or `[out, in]`, with the sign of BatchNorm's factor folded in.
        factor: Integer that the weight is multiplied by, so that the bias has a finer scale.
        scale: `[out]` float32, the scale of `factor * weight`, with the magnitude of BatchNorm's factor folded in.
        bias: `[out]` int32; its scale is the input's scale times `scale`.
        window: Geometry of a convolution; None for a linear layer.
        groups: Groups of a convolution.
        weight_bits: None if the layer was kept float; its integers then have up to 16 bits.
        act_bits: Bits of the layer's input.
        layer: False for a BatchNorm that could not be folded into a layer.
    """

    weight: Array
    factor: int
    scale: Array
    bias: Array
    window: Window | None
    groups: int = 1
    weight_bits: int | None
    act_bits: int | None
    layer: bool = True

    @property
    def alive(self) -> Array:
        """`[out]` bool: channels that depend on the input; BatchNorm folding may make a channel constant."""
        return np.asarray((self.weight != 0).reshape(len(self.weight), -1).any(1))

    @property
    def odd(self) -> bool:
        """Whether all codes are odd, without a zero (1 bit, and 2 bits of mid-rise quantizers)."""
        return self.weight_bits in (1, 2) and bool((self.weight[self.alive] % 2 == 1).all())

    @property
    def wide(self) -> bool:
        """Whether input and weight have more than 8 bits; all sums are then below 2^24, which float32 holds exactly."""
        return self.weight_bits is None


@dataclass(frozen=True, kw_only=True)
class FloatLayer(Op):
    """The last layer, if it was kept float; no integer operation follows it."""

    weight: Array
    bias: Array
    window: Window | None
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Add(Op):
    """The sum of two tensors of equal shape."""


@dataclass(frozen=True, kw_only=True)
class Multiply(Op):
    """The product of two tensors, one of which may be `[n, C, 1, 1]`."""


@dataclass(frozen=True, kw_only=True)
class MaxPool(Op):
    """The maximum over each window."""

    window: Window


@dataclass(frozen=True, kw_only=True)
class AveragePool(Op):
    """The mean over each window."""

    window: Window
    counts_padding: bool


@dataclass(frozen=True, kw_only=True)
class Mean(Op):
    """The mean over height and width: `[n, C, H, W]` to `[n, C, 1, 1]` if `keeps`, else to `[n, C]`."""

    keeps: bool


@dataclass(frozen=True, kw_only=True)
class Table(Op):
    """An elementwise function as a lookup table from input code to output code, uint8 `[256]`."""

    table: Array
    function: str
    parameters: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Concatenation of tensors with equal quantization parameters."""

    axis: int


@dataclass(frozen=True, kw_only=True)
class Slice(Op):
    """A slice of one axis."""

    axis: int
    start: int
    stop: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Pad(Op):
    """Padding with the real number 0."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Reshape(Op):
    """A reshape that keeps the batch axis."""

    shape: tuple[int, ...]
    """Without the batch axis."""


@dataclass(frozen=True, kw_only=True)
class Transpose(Op):
    """A permutation of axes that keeps the batch axis first."""

    order: tuple[int, ...]


OPS: tuple[type[Op], ...] = (
    Quantize, Layer, FloatLayer, Add, Multiply, MaxPool, AveragePool, Mean, Table, Concat, Slice, Pad, Reshape,
    Transpose,
)  # fmt: skip


@dataclass(frozen=True)
class IntegerGraph:
    """An integer network.

    Attributes:
        input: Name of the tensor of images, real numbers `[n, *shape]`.
        shape: Shape of one image.
        output: Name of the tensor of logits; the logits are the real numbers of its codes if it has codes.
        ops: Operations in order of execution.
    """

    input: str
    shape: tuple[int, ...]
    output: str
    ops: tuple[Op, ...]

    def tensor_qparams(self) -> dict[str, QuantParams | None]:
        """Tensor name -> quantization parameters; None for real numbers."""
        return {self.input: None, **{op.output: op.qparams for op in self.ops}}

    def layers(self) -> list[Layer]:
        """The integer layers."""
        return [op for op in self.ops if isinstance(op, Layer)]


def unlike(one: Op, **changes: Any) -> Op:
    """A copy with some fields replaced."""
    return replace(one, **changes)


def plain(op: Op) -> dict[str, Any]:
    """The fields of an operation by name."""
    return {field.name: getattr(op, field.name) for field in fields(op)}
