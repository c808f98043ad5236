"""The integer graph: what a network computes when every tensor between its layers is a tensor of codes.

A tensor of codes stands for `scale * (code - zero)`. Codes are unsigned bytes, whatever their bits, so that any integer
runtime holds them; only the input of a first layer that was kept float has more (`Layer.wide`). A tensor without a qparams
holds real numbers: the images, and what the last layer gives.

All scales are float32 numbers, and every rescaling is one float32 multiplication or division followed by rounding half
to even and saturation. `reference` runs the graph and thereby defines it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Limits = tuple[float, float]
"""The least and the largest real value that an activation lets through; infinite where it does not limit."""


@dataclass(frozen=True)
class QuantParams:
    """Which real numbers codes stand for, and which codes occur."""

    scale: float
    """The step, a float32 number."""
    zero_point: int = 0
    """The code of the real zero."""
    qmin: int = 0
    qmax: int = 255

    def codes(self, limits: Limits | None) -> tuple[int, int]:
        """The least and the largest code that occur under limits."""
        if limits is None:
            return self.qmin, self.qmax
        low, high = (np.clip(np.rint(limit / self.scale) + self.zero_point, self.qmin, self.qmax) for limit in limits)
        return int(low), int(high)

    def real(self, codes: Array) -> Array:
        """The float32 numbers that codes stand for."""
        return (codes.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True, kw_only=True)
class Op:
    """One step of the graph.

    Attributes:
        name: The module that it comes from, in the float network; unique among layers.
        inputs: Tensors by name.
        output: The tensor that it makes.
        qparams: Of the output; None where it is real.
        limits: Of an activation that was joined to it.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    qparams: QuantParams | None = None
    limits: Limits | None = None


@dataclass(frozen=True, kw_only=True)
class Quantize(Op):
    """Real numbers, or codes of another qparams, to codes: `rint(x / scale) + zero`, saturated."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How a kernel moves over a picture."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Above, left, below, right."""
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False
    """Whether a window that reaches over the end counts."""


@dataclass(frozen=True, kw_only=True)
class Layer(Op):
    """A convolution or linear layer in integers: `factor * sum((x - zero) * weight) + bias`, then one rescaling.

    Attributes:
        weight: Integers `[out, in / groups, kernel]` or `[out, in]`; BatchNorm's sign is in them.
        factor: What they are multiplied by before they are used, so that biases have finer steps.
        scale: `[out]` float32, what one unit of `factor * weight` is worth; BatchNorm's factor is in it.
        bias: `[out]` int32, in units of the input's scale times `scale`.
        window: Of a convolution; None is a linear layer.
        groups: Of a convolution.
        weight_bits: None where the layer was kept float; its integers then have up to 16 bits.
        act_bits: Of its input.
        layer: Whether it is a layer of the network; False for a BatchNorm of its own.
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
        """`[out]` bool: channels whose output depends on the input; BatchNorm may have made one a constant."""
        return np.asarray((self.weight != 0).reshape(len(self.weight), -1).any(1))

    @property
    def odd(self) -> bool:
        """Whether its levels are the odd ones, without a zero (1 bit, and 2 bits of mid-rise quantizers)."""
        return self.weight_bits in (1, 2) and bool((self.weight[self.alive] % 2 == 1).all())

    @property
    def wide(self) -> bool:
        """Whether input and weights have more than 8 bits; the sums then stay below 2^24, exact in float32."""
        return self.weight_bits is None


@dataclass(frozen=True, kw_only=True)
class FloatLayer(Op):
    """A layer behind which no integers come: the last one, where it was kept float."""

    weight: Array
    bias: Array
    window: Window | None
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Add(Op):
    """The sum of two tensors of one shape."""


@dataclass(frozen=True, kw_only=True)
class Multiply(Op):
    """The product of two tensors, one of which may be one number per image and channel."""


@dataclass(frozen=True, kw_only=True)
class MaxPool(Op):
    """The largest code of each window."""

    window: Window


@dataclass(frozen=True, kw_only=True)
class AveragePool(Op):
    """The mean of each window."""

    window: Window
    counts_padding: bool


@dataclass(frozen=True, kw_only=True)
class Mean(Op):
    """The mean of each channel's picture: `[n, C, H, W]` to `[n, C, 1, 1]`, or to `[n, C]`."""

    keeps: bool


@dataclass(frozen=True, kw_only=True)
class Table(Op):
    """A function of single values, looked up: 256 codes, or fewer where fewer occur."""

    table: Array
    function: str
    parameters: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Tensors of one qparams side by side."""

    axis: int


@dataclass(frozen=True, kw_only=True)
class Slice(Op):
    """Part of an axis."""

    axis: int
    start: int
    stop: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Pad(Op):
    """Real zeros around a tensor."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Reshape(Op):
    """The same values in another shape; the batch stays."""

    shape: tuple[int, ...]
    """Without the batch."""


@dataclass(frozen=True, kw_only=True)
class Transpose(Op):
    """The axes in another order; the batch stays first."""

    order: tuple[int, ...]


OPS: tuple[type[Op], ...] = (
    Quantize, Layer, FloatLayer, Add, Multiply, MaxPool, AveragePool, Mean, Table, Concat, Slice, Pad, Reshape,
    Transpose,
)  # fmt: skip


@dataclass(frozen=True)
class IntegerGraph:
    """A network in integers.

    Attributes:
        input: The tensor of images, real numbers `[n, *shape]`.
        shape: Of one image.
        output: The tensor of logits; codes of it count as the numbers that they stand for.
        ops: In order of execution.
    """

    input: str
    shape: tuple[int, ...]
    output: str
    ops: tuple[Op, ...]

    def tensor_qparams(self) -> dict[str, QuantParams | None]:
        """The qparams of every tensor."""
        return {self.input: None, **{op.output: op.qparams for op in self.ops}}

    def layers(self) -> list[Layer]:
        """The layers in integers."""
        return [op for op in self.ops if isinstance(op, Layer)]


def unlike(one: Op, **changes: Any) -> Op:
    """A copy with other fields."""
    return replace(one, **changes)


def plain(op: Op) -> dict[str, Any]:
    """The fields of a step by name."""
    return {field.name: getattr(op, field.name) for field in fields(op)}
