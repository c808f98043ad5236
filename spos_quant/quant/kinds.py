"""The layer types that can be quantized, as one table: a new type is a new row, not a new class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brevitas.nn as qnn
import torch.nn.functional as F
from torch import Tensor, nn

from spos_quant.errors import ModelError


@dataclass(frozen=True)
class LayerKind:
    """How layers of one float class run on a given weight, and the matching Brevitas class."""

    float_class: type[nn.Module]
    brevitas_class: type[nn.Module]
    forward: Callable[[Tensor, Tensor, Tensor | None, Any, int], Tensor]
    """`(x, weight, bias, settings, groups) -> output`."""
    settings: tuple[str, ...]
    """Constructor arguments other than channels, bias and groups; each is an attribute of the float layer."""
    channel_names: tuple[str, str]
    grouped: bool = False
    transposed: bool = False
    """Whether the weight is `[in, out / groups, ...]` instead of `[out, in / groups, ...]`."""

    def macs(self, weight: Tensor, x: Tensor, output: Tensor, outputs: int) -> int:
        """Multiply-adds of one forward pass over the whole batch; `outputs` is the number of output channels."""
        if self.transposed:  # every input pixel is multiplied with the whole kernel
            return x.numel() * (weight.numel() // weight.shape[0])
        return output.numel() * (weight.numel() // outputs)


def _conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Any, groups: int) -> Tensor:
    x, padding = _padded(x, settings)
    return F.conv1d(x, weight, bias, settings.stride, padding, settings.dilation, groups)


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Any, groups: int) -> Tensor:
    x, padding = _padded(x, settings)
    return F.conv2d(x, weight, bias, settings.stride, padding, settings.dilation, groups)


def _padded(x: Tensor, settings: Any) -> tuple[Tensor, Any]:
    """The input, padded here unless its padding mode is zeros, and the padding left for the convolution."""
    if settings.padding_mode == "zeros":
        return x, settings.padding
    return F.pad(x, settings.border, mode=settings.padding_mode), 0


def _conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Any, groups: int) -> Tensor:
    return F.conv_transpose2d(
        x, weight, bias, settings.stride, settings.padding, settings.output_padding, groups, settings.dilation
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, _settings: Any, _groups: int) -> Tensor:
    return F.linear(x, weight, bias)


_CONV = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
_CHANNELS = ("in_channels", "out_channels")
KINDS = (
    LayerKind(nn.Conv1d, qnn.QuantConv1d, _conv1d, _CONV, _CHANNELS, True),
    LayerKind(nn.Conv2d, qnn.QuantConv2d, _conv2d, _CONV, _CHANNELS, True),
    LayerKind(
        nn.ConvTranspose2d,
        qnn.QuantConvTranspose2d,
        _conv_transpose2d,
        (*_CONV, "output_padding"),
        _CHANNELS,
        True,
        transposed=True,
    ),
    LayerKind(nn.Linear, qnn.QuantLinear, _linear, (), ("in_features", "out_features")),
)


def kind_of(layer: nn.Module) -> LayerKind:
    """The kind of a float or Brevitas layer.

    Raises:
        ModelError: layers of this type cannot be quantized.
    """
    for kind in KINDS:
        if isinstance(layer, kind.float_class):
            return kind
    known = ", ".join(kind.float_class.__name__ for kind in KINDS)
    raise ModelError(f"a layer of class {type(layer).__name__} cannot be quantized; expected one of {known}")


def is_plain(layer: nn.Module) -> bool:
    """Whether a float or Brevitas layer computes the same as its kind; a subclass may override the computation."""
    return any(
        isinstance(layer, kind.float_class)
        and any(_computes(layer) == _computes(plain) for plain in (kind.float_class, kind.brevitas_class))
        for kind in KINDS
    )


def _computes(layer: Any) -> tuple[Any, ...]:
    """The functions that determine what a layer, or a layer class, computes."""
    owner = layer if isinstance(layer, type) else type(layer)
    return tuple(getattr(owner, name, None) for name in ("forward", "_conv_forward", "inner_forward_impl"))
