"""The kinds of layers that can be quantized, as one table: adding a kind adds a row, not a class."""

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
    """How layers of one float class run on a given weight, and what they are in Brevitas."""

    float_class: type[nn.Module]
    brevitas_class: type[nn.Module]
    forward: Callable[[Tensor, Tensor, Tensor | None, Any, int], Tensor]
    """`(x, weight, bias, float layer, groups) -> output`."""
    settings: tuple[str, ...]
    """Constructor arguments beyond channels, bias and groups, readable as attributes of the float layer."""
    channel_names: tuple[str, str]
    grouped: bool = False


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d, groups: int) -> Tensor:
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, groups)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, _layer: nn.Linear, _groups: int) -> Tensor:
    return F.linear(x, weight, bias)


KINDS = (
    LayerKind(
        nn.Conv2d,
        qnn.QuantConv2d,
        _conv2d,
        ("kernel_size", "stride", "padding", "dilation"),
        ("in_channels", "out_channels"),
        True,
    ),
    LayerKind(nn.Linear, qnn.QuantLinear, _linear, (), ("in_features", "out_features")),
)


def kind_of(layer: nn.Module) -> LayerKind:
    """The kind of a float or Brevitas layer.

    Raises:
        ModelError: the layer is of no kind that can be quantized.
    """
    for kind in KINDS:
        if isinstance(layer, kind.float_class):
            return kind
    known = ", ".join(kind.float_class.__name__ for kind in KINDS)
    raise ModelError(f"a layer of class {type(layer).__name__} cannot be quantized; expected one of {known}")
