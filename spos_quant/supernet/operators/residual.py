"""Operators of residual networks: two or three convolutions in a row, and none."""

from __future__ import annotations

from torch import nn

from spos_quant.supernet.blocks import Operator, OperatorMaker, Site
from spos_quant.supernet.layers import conv
from spos_quant.supernet.operators import operators


def _basic(kernel: int) -> OperatorMaker:
    def make(site: Site) -> Operator:
        inner = site.inner_widths(site.outputs)
        most = max(inner)
        fixed_in, fixed_out = [site.inputs] * len(inner), [site.outputs] * len(inner)
        layers = {
            "conv1": conv(site.inputs, most, kernel, site.stride, signed=site.signed),
            "bn1": site.norm(most),
            "relu1": nn.ReLU(inplace=True),
            "conv2": conv(most, site.outputs, kernel),
            "bn2": site.norm(site.outputs),
        }
        return Operator(layers, {"conv1": (fixed_in, inner), "bn1": (inner, inner), "conv2": (inner, fixed_out)})

    return make


@operators.register("conv3x3")
def conv3x3(site: Site) -> Operator:
    """Two 3x3 convolutions: the basic block of He et al. (arXiv 1512.03385)."""
    return _basic(3)(site)


@operators.register("conv5x5")
def conv5x5(site: Site) -> Operator:
    """Two 5x5 convolutions."""
    return _basic(5)(site)


@operators.register("bottleneck")
def bottleneck(site: Site) -> Operator:
    """1x1, 3x3, 1x1 with a quarter of the output channels inside (arXiv 1512.03385); the 3x3 has the stride."""
    inner = site.inner_widths(site.outputs // 4)
    most = max(inner)
    fixed_in, fixed_out = [site.inputs] * len(inner), [site.outputs] * len(inner)
    layers = {
        "conv1": conv(site.inputs, most, 1, signed=site.signed),
        "bn1": site.norm(most),
        "relu1": nn.ReLU(inplace=True),
        "conv2": conv(most, most, 3, site.stride),
        "bn2": site.norm(most),
        "relu2": nn.ReLU(inplace=True),
        "conv3": conv(most, site.outputs, 1),
        "bn3": site.norm(site.outputs),
    }
    same = (inner, inner)
    return Operator(
        layers,
        {"conv1": (fixed_in, inner), "bn1": same, "conv2": same, "bn2": same, "conv3": (inner, fixed_out)},
    )


@operators.register("sepconv3x3")
def sepconv3x3(site: Site) -> Operator:
    """Two depthwise-separable 3x3 convolutions (arXiv 1704.04861): depthwise, then 1x1, twice."""
    inner = site.inner_widths(site.outputs)
    most = max(inner)
    fixed_in, fixed_out = [site.inputs] * len(inner), [site.outputs] * len(inner)
    layers = {
        "depthwise1": conv(site.inputs, site.inputs, 3, site.stride, site.inputs, signed=site.signed),
        "bn1": site.norm(site.inputs),
        "relu1": nn.ReLU(inplace=True),
        "pointwise1": conv(site.inputs, most, 1),
        "bn2": site.norm(most),
        "relu2": nn.ReLU(inplace=True),
        "depthwise2": conv(most, most, 3, groups=most),
        "bn3": site.norm(most),
        "relu3": nn.ReLU(inplace=True),
        "pointwise2": conv(most, site.outputs, 1),
        "bn4": site.norm(site.outputs),
    }
    same = (inner, inner)
    return Operator(
        layers,
        {
            "pointwise1": (fixed_in, inner),
            "bn2": same,
            "depthwise2": same,
            "bn3": same,
            "pointwise2": (inner, fixed_out),
        },
    )


@operators.register("skip")
def skip(_site: Site) -> Operator:
    """No operator: the block is its shortcut, which makes depth an axis like any other."""
    return Operator({})
