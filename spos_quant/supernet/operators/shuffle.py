"""Building blocks of Single Path One-Shot NAS (arXiv 1904.00420, Sec. 4.1), after ShuffleNetV2 (arXiv 1807.11164).

Layers are named as in torchvision's ShuffleNetV2: `branch2` is the row of layers, `branch1` the projection at stride 2.
"""

from __future__ import annotations

from torch import nn

from spos_quant.supernet.blocks import Operator, Site, Widths
from spos_quant.supernet.layers import conv
from spos_quant.supernet.operators import operators

_Layer = tuple[nn.Module, Widths, Widths]
"""A layer, its input and its output channels for every width."""


def _pointwise(site: Site, inputs: Widths, outputs: Widths, *, signed: bool = True) -> list[_Layer]:
    """1x1, BN, ReLU; the input follows a BatchNorm, unless said otherwise."""
    made = conv(max(inputs), max(outputs), 1, signed=signed)
    return [(made, inputs, outputs), (site.norm(max(outputs)), outputs, outputs), (nn.ReLU(), outputs, outputs)]


def _depthwise(site: Site, channels: Widths, kernel: int, stride: int = 1, *, signed: bool = False) -> list[_Layer]:
    """Depthwise k x k, BN; the input follows a ReLU, unless said otherwise."""
    most = max(channels)
    made = conv(most, most, kernel, stride, groups=most, signed=signed)
    return [(made, channels, channels), (site.norm(most), channels, channels)]


def _operator(site: Site, kernel: int, row: list[_Layer]) -> Operator:
    layers: dict[str, nn.Module] = {}
    if site.projection:
        whole = [site.inputs]
        beside = [
            *_depthwise(site, whole, kernel, site.stride, signed=site.signed),
            *_pointwise(site, whole, whole),
        ]
        layers["branch1"] = nn.Sequential(*(layer for layer, _, _ in beside))
    layers["branch2"] = nn.Sequential(*(layer for layer, _, _ in row))
    channels = {f"branch2.{i}": (inputs, outputs) for i, (_, inputs, outputs) in enumerate(row)}
    return Operator(layers, channels, "branch1" if site.projection else None)


def _shuffle(site: Site, kernel: int) -> Operator:
    inputs, inner, outputs = _channels(site)
    row = [
        *_pointwise(site, inputs, inner, signed=site.signed),
        *_depthwise(site, inner, kernel, site.stride),
        *_pointwise(site, inner, outputs),
    ]
    return _operator(site, kernel, row)


def _channels(site: Site) -> tuple[Widths, Widths, Widths]:
    inner = site.inner_widths()
    return [site.inputs] * len(inner), inner, [site.outputs] * len(inner)


@operators.register("shuffle3x3")
def shuffle3x3(site: Site) -> Operator:
    """1x1, depthwise 3x3, 1x1: the unit of ShuffleNetV2."""
    return _shuffle(site, 3)


@operators.register("shuffle5x5")
def shuffle5x5(site: Site) -> Operator:
    """1x1, depthwise 5x5, 1x1."""
    return _shuffle(site, 5)


@operators.register("shuffle7x7")
def shuffle7x7(site: Site) -> Operator:
    """1x1, depthwise 7x7, 1x1."""
    return _shuffle(site, 7)


@operators.register("xception")
def xception(site: Site) -> Operator:
    """Three times depthwise 3x3 and 1x1, after Xception (arXiv 1610.02357); the first depthwise has the stride."""
    inputs, inner, outputs = _channels(site)
    row = [
        *_depthwise(site, inputs, 3, site.stride, signed=site.signed),
        *_pointwise(site, inputs, inner),
        *_depthwise(site, inner, 3),
        *_pointwise(site, inner, inner),
        *_depthwise(site, inner, 3),
        *_pointwise(site, inner, outputs),
    ]
    return _operator(site, 3, row)
