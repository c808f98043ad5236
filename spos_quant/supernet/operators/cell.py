"""The five operations of NAS-Bench-201 (arXiv 2001.00326), under the names of that benchmark."""

from __future__ import annotations

from torch import nn

from spos_quant.supernet.blocks import BlockSpec, Operator
from spos_quant.supernet.layers import Zero, conv
from spos_quant.supernet.operators import operators


def relu_conv_bn(block_spec: BlockSpec, kernel: int) -> nn.Sequential:
    """ReLU, convolution, BatchNorm, in the benchmark's order."""
    return nn.Sequential(
        nn.ReLU(),
        conv(block_spec.inputs, block_spec.outputs, kernel, block_spec.stride),
        block_spec.norm(block_spec.outputs),
    )


@operators.register("none")
def none(_block_spec: BlockSpec) -> Operator:
    """Zeros."""
    return Operator({"op": Zero()})


@operators.register("skip_connect")
def skip_connect(_block_spec: BlockSpec) -> Operator:
    """The identity."""
    return Operator({})


@operators.register("nor_conv_1x1")
def nor_conv_1x1(block_spec: BlockSpec) -> Operator:
    """ReLU, 1x1, BatchNorm."""
    return Operator({"op": relu_conv_bn(block_spec, 1)})


@operators.register("nor_conv_3x3")
def nor_conv_3x3(block_spec: BlockSpec) -> Operator:
    """ReLU, 3x3, BatchNorm."""
    return Operator({"op": relu_conv_bn(block_spec, 3)})


@operators.register("avg_pool_3x3")
def avg_pool_3x3(block_spec: BlockSpec) -> Operator:
    """The mean of 3x3 pixels without those outside the image."""
    return Operator({"op": nn.AvgPool2d(3, block_spec.stride, 1, count_include_pad=False)})
