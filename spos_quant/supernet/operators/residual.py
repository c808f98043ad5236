"""Operators of residual networks: sequences of convolutions, and the skip."""

from __future__ import annotations

from torch import nn

from spos_quant.supernet.blocks import BlockSpec, Operator, OperatorMaker
from spos_quant.supernet.layers import conv
from spos_quant.supernet.operators import operators


def _basic(kernel: int) -> OperatorMaker:
    def make(block_spec: BlockSpec) -> Operator:
        inner = block_spec.inner_widths(block_spec.outputs)
        most = max(inner)
        fixed_in, fixed_out = [block_spec.inputs] * len(inner), [block_spec.outputs] * len(inner)
        layers = {
            "conv1": conv(block_spec.inputs, most, kernel, block_spec.stride, signed=block_spec.signed),
            "bn1": block_spec.norm(most),
            "relu1": nn.ReLU(inplace=True),
            "conv2": conv(most, block_spec.outputs, kernel),
            "bn2": block_spec.norm(block_spec.outputs),
        }
        return Operator(layers, {"conv1": (fixed_in, inner), "bn1": (inner, inner), "conv2": (inner, fixed_out)})

    return make


@operators.register("conv3x3")
def conv3x3(block_spec: BlockSpec) -> Operator:
    """Two 3x3 convolutions: the basic block of He et al. (arXiv 1512.03385)."""
    return _basic(3)(block_spec)


@operators.register("conv5x5")
def conv5x5(block_spec: BlockSpec) -> Operator:
    """Two 5x5 convolutions."""
    return _basic(5)(block_spec)


@operators.register("bottleneck")
def bottleneck(block_spec: BlockSpec) -> Operator:
    """1x1, 3x3, 1x1 with a quarter of the output channels inside (arXiv 1512.03385); the 3x3 has the stride."""
    inner = block_spec.inner_widths(block_spec.outputs // 4)
    most = max(inner)
    fixed_in, fixed_out = [block_spec.inputs] * len(inner), [block_spec.outputs] * len(inner)
    layers = {
        "conv1": conv(block_spec.inputs, most, 1, signed=block_spec.signed),
        "bn1": block_spec.norm(most),
        "relu1": nn.ReLU(inplace=True),
        "conv2": conv(most, most, 3, block_spec.stride),
        "bn2": block_spec.norm(most),
        "relu2": nn.ReLU(inplace=True),
        "conv3": conv(most, block_spec.outputs, 1),
        "bn3": block_spec.norm(block_spec.outputs),
    }
    same = (inner, inner)
    return Operator(
        layers,
        {"conv1": (fixed_in, inner), "bn1": same, "conv2": same, "bn2": same, "conv3": (inner, fixed_out)},
    )


@operators.register("sepconv3x3")
def sepconv3x3(block_spec: BlockSpec) -> Operator:
    """Two depthwise-separable 3x3 convolutions (arXiv 1704.04861): depthwise, then 1x1, twice."""
    inner = block_spec.inner_widths(block_spec.outputs)
    most = max(inner)
    fixed_in, fixed_out = [block_spec.inputs] * len(inner), [block_spec.outputs] * len(inner)
    layers = {
        "depthwise1": conv(
            block_spec.inputs, block_spec.inputs, 3, block_spec.stride, block_spec.inputs, signed=block_spec.signed
        ),
        "bn1": block_spec.norm(block_spec.inputs),
        "relu1": nn.ReLU(inplace=True),
        "pointwise1": conv(block_spec.inputs, most, 1),
        "bn2": block_spec.norm(most),
        "relu2": nn.ReLU(inplace=True),
        "depthwise2": conv(most, most, 3, groups=most),
        "bn3": block_spec.norm(most),
        "relu3": nn.ReLU(inplace=True),
        "pointwise2": conv(most, block_spec.outputs, 1),
        "bn4": block_spec.norm(block_spec.outputs),
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
def skip(_block_spec: BlockSpec) -> Operator:
    """No operator: the block is only its shortcut, so depth is an axis like any other."""
    return Operator({})
