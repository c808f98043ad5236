"""Switchable layers: one float weight, sliced to the active channels, then quantized to the active bits.

A switchable layer holds one quantizer per bit-width over one shared weight (decision record 0003), so the memory of a
supernet does not grow with the number of candidates. `quant.static` makes the plain layer of the active path, which is
bit-exact to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjector
from torch import Tensor, nn

from spos_quant.errors import ModelError
from spos_quant.quant.fused_quant import FusedIntQuant, rectifying
from spos_quant.quant.integers import integer_convolution
from spos_quant.quant.kinds import kind_of
from spos_quant.quant.quantizers import quantizer_pair
from spos_quant.space.shapes import Geometry

Bits = int | None


def values_only(proxy: nn.Module, wanted: bool = True) -> nn.Module:
    """Makes a Brevitas quantizer return plain values, or again (`wanted=False`) values with scale and bits.

    Training does not use scale and bits. They cost dozens of operations per layer, some of which synchronize a GPU.
    """
    proxy.skip_create_quant_tensor = wanted  # type: ignore[assignment]
    return proxy


class Levels(NamedTuple):
    """The levels `qmin`, ..., `qmax` times `step`, the scale; all are scalars."""

    step: Tensor
    qmin: Tensor
    qmax: Tensor


class InputQuantizer(nn.Module):
    """Quantizes one tensor to any of several bit-widths, each with its own learned clip.

    It belongs to the layers that read the tensor; layers that read the same tensor share one quantizer.
    """

    def __init__(self, bits: Iterable[int], *, signed: bool, quantizer: str) -> None:
        super().__init__()
        self.signed = signed
        self.quantizer = quantizer
        _, act = quantizer_pair(quantizer)
        self.by_bits = nn.ModuleDict(
            {str(b): values_only(ActQuantProxyFromInjector(_Owner(), act(b, signed))) for b in sorted(set(bits))}
        )

    def forward(self, x: Tensor, bits: int) -> Tensor:
        """`x` rounded to the levels of `bits`."""
        value: Tensor = self.by_bits[str(bits)](x)
        return value

    def levels(self, bits: int) -> Levels | None:
        """The levels of `bits`; None if they are not consecutive integers times a scale, as at signed 1 bit."""
        proxy: Any = self.by_bits[str(bits)]
        quantizer = proxy.fused_activation_quant_proxy.tensor_quant
        if not isinstance(getattr(quantizer, "int_quant", None), FusedIntQuant):
            return None
        _, scale, *_ = quantizer(self.clip(bits).new_zeros(1))
        return Levels(scale, quantizer.int_quant.qmin, quantizer.int_quant.qmax)

    def clip(self, bits: int) -> nn.Parameter:
        """The learned clip of one bit-width, a scalar."""
        (parameter,) = self.by_bits[str(bits)].parameters()
        return parameter


class _Owner(nn.Module):
    """Brevitas requires a module that owns a quantizer; an input quantizer uses nothing of it."""


class SwitchLayer(nn.Module):
    """A convolution or linear layer whose channels and bits can be switched.

    Args:
        layer: The float layer at its largest width; its parameters are used directly, not copied.
        signed: Whether its input may be negative.

    Raises:
        ModelError: layers of this type cannot be quantized.
    """

    def __init__(self, layer: nn.Module, *, signed: bool = False) -> None:
        super().__init__()
        self.kind = kind_of(layer)
        self.output_channel_dim = int(self.kind.transposed)  # Brevitas reads this from the owner of a weight
        self.signed = signed
        self.weight: nn.Parameter = layer.weight  # type: ignore[assignment]
        self.bias: nn.Parameter | None = layer.bias  # type: ignore[assignment]
        # Settings instead of the float layer itself, which would register the same weight a second time.
        self.settings = {name: getattr(layer, name) for name in self.kind.settings}
        border = getattr(layer, "_reversed_padding_repeated_twice", None)
        self._geometry = SimpleNamespace(**self.settings, border=border)
        self.groups: int = getattr(layer, "groups", 1)
        self.in_channels, self.out_channels = (int(getattr(layer, name)) for name in self.kind.channel_names)
        self.weight_quant = nn.ModuleDict()
        self.input_quant: InputQuantizer | None = None
        self.quantizer = ""
        self.searchable = False
        self.active_in, self.active_out = self.in_channels, self.out_channels
        self.weight_bits: Bits = None
        self.act_bits: Bits = None
        self.kept: dict[tuple[Any, ...], Any] | None = None
        """Cache of quantized and packed weights, by bits and channels, while `cached_weights` is open."""
        self.integers = False
        """Whether the layer sums integers if it can, while `cached_weights` is open."""
        self.norm: SwitchBatchNorm2d | None = None
        """The BatchNorm that this layer applies to its own output, while `fused_norms` is open."""

    def quantize(self, weight_bits: Sequence[Bits], quantizer: str, input_quant: InputQuantizer | None = None) -> None:
        """Gives the layer its quantizers: one per weight bit-width, and one for its input, which may be shared.

        Args:
            weight_bits: Candidates, 1 to 8, or None for float.
            quantizer: Registered name, for example `gaussian+pact`.
            input_quant: Has every activation bit candidate; None if all of them are float.
        """
        weight, _ = quantizer_pair(quantizer)
        # The scale must have the shape of the slice, not of the full weight.
        shape = tuple(-1 if dim == self.output_channel_dim else 1 for dim in range(self.weight.dim()))
        for bits in sorted({b for b in weight_bits if b is not None}):
            # Constants keep the precision of the dtype that a quantizer is made with, even after `.to()`. With float32
            # they agree in a layer made in double, one moved to double, and its static counterpart.
            made = weight(bits).let(scaling_shape=shape, dtype=torch.float32)
            self.weight_quant[str(bits)] = values_only(WeightQuantProxyFromInjector(self, made).to(self.weight.dtype))
        self.input_quant = input_quant
        self.quantizer = quantizer
        self.searchable = True

    def activate_channels(self, in_channels: int, out_channels: int) -> None:
        """Uses the first `in_channels` and `out_channels` channels; grouped convolutions keep whole groups.

        Raises:
            ModelError: more channels than the layer has, or not a whole number of groups.
        """
        if not (0 < in_channels <= self.in_channels and 0 < out_channels <= self.out_channels):
            raise ModelError(
                f"a layer of {self.in_channels} -> {self.out_channels} channels cannot be cut to "
                f"{in_channels} -> {out_channels}"
            )
        same_share = in_channels * self.out_channels == out_channels * self.in_channels
        if self.groups > 1 and not (same_share and out_channels * self.groups % self.out_channels == 0):
            raise ModelError(
                f"{in_channels} -> {out_channels} channels cut a convolution of {self.groups} groups inside a group"
            )
        self.active_in, self.active_out = in_channels, out_channels

    def activate_bits(self, weight_bits: Bits, act_bits: Bits) -> None:
        """Uses these bits, None for float; they must be among the candidates passed to `quantize`."""
        self.weight_bits, self.act_bits = weight_bits, act_bits

    @property
    def active_groups(self) -> int:
        """Number of groups of the active channels."""
        return self.groups if self.groups == 1 else self.active_out * self.groups // self.out_channels

    def active_weight(self) -> Tensor:
        """The float weight of the active channels: `[out, in / groups, ...]`; transposed, `[in, out / groups, ...]`."""
        if self.kind.transposed:
            return _leading(self.weight, self.active_in, self.active_out // self.active_groups)
        return _leading(self.weight, self.active_out, self.active_in // self.active_groups)

    def geometry(self, x: Tensor) -> Geometry:
        """The geometry of one call on a batch `x` with the active channels."""
        kind, weight = self.kind.float_class.__name__, tuple(self.active_weight().shape)
        if "stride" not in self.settings:
            return Geometry(kind, tuple(x.shape[1:]), weight)
        begin, end = self._geometry.border[-2::-2], self._geometry.border[::-2]  # torch lists the last dimension first
        return Geometry(
            kind,
            tuple(x.shape[1:]),
            weight,
            self.settings["stride"],
            (*begin, *end),
            self.settings["dilation"],
            self.active_groups,
        )

    def active_bias(self) -> Tensor | None:
        """The bias of the active channels."""
        return None if self.bias is None else self.bias[: self.active_out]

    def forward(self, x: Tensor) -> Tensor:
        """The output for `x` with the active channels and bits."""
        if self.integers and not torch.is_grad_enabled():
            made = integer_convolution(self, x)
            if made is not None:
                return made
        if self.act_bits is not None:
            assert self.input_quant is not None
            x = self.input_quant(x, self.act_bits)  # applies an absorbed ReLU itself
        elif self in rectifying:
            x = x.relu()
        y = self.kind.forward(x, self._used_weight(), self.active_bias(), self._geometry, self.active_groups)
        return y if self.norm is None else self.norm.normalized(y)

    def _used_weight(self) -> Tensor:
        """The weight of the active channels, quantized to the active bits."""
        if self.weight_bits is None:
            return self.active_weight()
        kept = {} if self.kept is None or torch.is_grad_enabled() else self.kept
        key = self.weight_bits, self.active_in, self.active_out
        if key not in kept:
            kept[key] = self.weight_quant[str(self.weight_bits)](self.active_weight())
        weight: Tensor = kept[key]
        return weight


def _leading(x: Tensor, rows: int, columns: int) -> Tensor:
    """`x[:rows, :columns]`, contiguous in the memory format of `x`."""
    made: Tensor = x if (rows, columns) == x.shape[:2] else _Leading.apply(x, rows, columns)
    return made


class _Leading(torch.autograd.Function):
    """The leading rows and columns; the backward pass zero-pads the gradient once, in the memory format of `x`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's names
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def forward(x: Tensor, rows: int, columns: int) -> Tensor:
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return x[:rows, :columns].contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (x,) = upstream, ctx.saved_tensors
        rows, columns = gradient.shape[:2]
        full = torch.zeros_like(x)
        full[:rows, :columns] = gradient
        return full, None, None


@contextmanager
def cached_weights(layers: Iterable[SwitchLayer], *, integers: bool = False) -> Iterator[None]:
    """Caches quantized weights over many batches while open; weights and clips must not change meanwhile.

    Nothing is cached while gradients are recorded. The cache is dropped at the end.

    Args:
        layers: Layers of a supernet.
        integers: Whether layers sum integers if they can (`quant.integers`); needs `integers_available()`.
    """
    layers = list(layers)
    for layer in layers:
        layer.kept, layer.integers = {}, integers
    try:
        yield
    finally:
        for layer in layers:
            layer.kept, layer.integers = None, False


@contextmanager
def fused_norms(pairs: Iterable[tuple[SwitchLayer, SwitchBatchNorm2d]]) -> Iterator[None]:
    """Makes layers apply the BatchNorm that follows them while open; the BatchNorm itself is then the identity.

    A layer that sums integers rescales its sums anyway, so the normalization costs nothing. BatchNorm statistics must
    not be recomputed meanwhile.

    Args:
        pairs: Layers, each with a BatchNorm that reads only its output.
    """
    pairs = list(pairs)
    # Not set as a submodule: the BatchNorm already has a name in the network.
    for layer, norm in pairs:
        layer.__dict__["norm"], norm.absorbed = norm, True
    try:
        yield
    finally:
        for layer, norm in pairs:
            layer.__dict__["norm"], norm.absorbed = None, False


class SwitchBatchNorm2d(nn.Module):
    """BatchNorm over the active leading channels; statistics and affine parameters are shared by all widths.

    All bit-widths share the affine parameters too, unless `split` gives each weight bit-width of the preceding layer
    its own.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.by_bits = nn.ModuleDict()
        self.eps = eps
        self.momentum = momentum
        self.active = channels
        self.active_bits: Bits = None
        self.absorbed = False
        """Whether the preceding layer applies this BatchNorm, while `fused_norms` is open."""

    def split(self, bits: Iterable[Bits]) -> None:
        """Gives each of these bit-widths its own affine parameters, copied from the shared ones, which float uses."""
        for b in sorted({b for b in bits if b is not None}):
            self.by_bits[str(b)] = Affine(self.weight, self.bias)

    def activate_channels(self, channels: int) -> None:
        """Uses the first `channels` channels."""
        self.active = channels

    def activate_bits(self, weight_bits: Bits) -> None:
        """Uses the affine parameters of these weight bits of the preceding layer; `split` must have listed them."""
        self.active_bits = weight_bits

    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the active bits and channels."""
        owner = self if self.active_bits is None else self.by_bits[str(self.active_bits)]
        assert isinstance(owner, SwitchBatchNorm2d | Affine)
        return owner.weight[: self.active], owner.bias[: self.active]

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[N, C, H, W]`, normalized by batch statistics in training and by running statistics otherwise."""
        return x if self.absorbed else self.normalized(x)

    def normalized(self, x: Tensor) -> Tensor:
        """`x` normalized, even while absorbed."""
        c = self.active
        return F.batch_norm(
            x, self.running_mean[:c], self.running_var[:c], *self.affine(), self.training, self.momentum, self.eps
        )

    def line(self) -> tuple[Tensor, Tensor]:
        """Factor and offset per active channel: by running statistics, `x` becomes `x * factor + offset`."""
        c = self.active
        weight, bias = self.affine()
        factor = weight * torch.rsqrt(self.running_var[:c] + self.eps)
        return factor, bias - self.running_mean[:c] * factor


class Affine(nn.Module):
    """Weight and bias of a BatchNorm for one bit-width."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(tensor.detach().clone()) for tensor in (weight, bias))
