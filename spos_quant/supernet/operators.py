"""The operators that a residual choice block may become. To add one: copy a function, register it, name it in YAML.

An operator's inner channels follow the width axis; its input and output channels never do, so that no layer's cost
depends on another block (decision record 0001).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.registry import Registry
from spos_quant.supernet.blocks import Operator, OperatorMaker, scaled

operators: Registry[OperatorMaker] = Registry("operator", home=("spos_quant.supernet.operators",))


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, signed: bool = False
) -> SwitchLayer:
    """A switchable convolution without bias that keeps the size at stride 1."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return SwitchLayer(layer, signed=signed)


def _basic(kernel: int) -> OperatorMaker:
    def make(inputs: int, outputs: int, stride: int, factors: Sequence[float]) -> Operator:
        inner = [scaled(outputs, f) for f in factors]
        most = max(inner)
        fixed_in, fixed_out = [inputs] * len(inner), [outputs] * len(inner)
        layers = {
            "conv1": conv(inputs, most, kernel, stride),
            "bn1": SwitchBatchNorm2d(most),
            "relu1": nn.ReLU(),
            "conv2": conv(most, outputs, kernel),
            "bn2": SwitchBatchNorm2d(outputs),
        }
        return Operator(layers, {"conv1": (fixed_in, inner), "bn1": (inner, inner), "conv2": (inner, fixed_out)})

    return make


@operators.register("conv3x3")
def conv3x3(inputs: int, outputs: int, stride: int, factors: Sequence[float]) -> Operator:
    """Two 3x3 convolutions: the basic block of He et al. (arXiv 1512.03385)."""
    return _basic(3)(inputs, outputs, stride, factors)


@operators.register("conv5x5")
def conv5x5(inputs: int, outputs: int, stride: int, factors: Sequence[float]) -> Operator:
    """Two 5x5 convolutions."""
    return _basic(5)(inputs, outputs, stride, factors)


@operators.register("bottleneck")
def bottleneck(inputs: int, outputs: int, stride: int, factors: Sequence[float]) -> Operator:
    """1x1, 3x3, 1x1 with a quarter of the output channels inside (arXiv 1512.03385); the 3x3 has the stride."""
    inner = [scaled(outputs // 4, f) for f in factors]
    most = max(inner)
    fixed_in, fixed_out = [inputs] * len(inner), [outputs] * len(inner)
    layers = {
        "conv1": conv(inputs, most, 1),
        "bn1": SwitchBatchNorm2d(most),
        "relu1": nn.ReLU(),
        "conv2": conv(most, most, 3, stride),
        "bn2": SwitchBatchNorm2d(most),
        "relu2": nn.ReLU(),
        "conv3": conv(most, outputs, 1),
        "bn3": SwitchBatchNorm2d(outputs),
    }
    same = (inner, inner)
    return Operator(
        layers,
        {"conv1": (fixed_in, inner), "bn1": same, "conv2": same, "bn2": same, "conv3": (inner, fixed_out)},
    )


@operators.register("sepconv3x3")
def sepconv3x3(inputs: int, outputs: int, stride: int, factors: Sequence[float]) -> Operator:
    """Two depthwise-separable 3x3 convolutions (arXiv 1704.04861): depthwise, then 1x1, twice."""
    inner = [scaled(outputs, f) for f in factors]
    most = max(inner)
    fixed_in, fixed_out = [inputs] * len(inner), [outputs] * len(inner)
    layers = {
        "depthwise1": conv(inputs, inputs, 3, stride, groups=inputs),
        "bn1": SwitchBatchNorm2d(inputs),
        "relu1": nn.ReLU(),
        "pointwise1": conv(inputs, most, 1),
        "bn2": SwitchBatchNorm2d(most),
        "relu2": nn.ReLU(),
        "depthwise2": conv(most, most, 3, groups=most),
        "bn3": SwitchBatchNorm2d(most),
        "relu3": nn.ReLU(),
        "pointwise2": conv(most, outputs, 1),
        "bn4": SwitchBatchNorm2d(outputs),
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
def skip(inputs: int, outputs: int, stride: int, factors: Sequence[float]) -> Operator:
    """No operator: the block is its shortcut, which makes depth an axis like any other."""
    del inputs, outputs, stride, factors
    return Operator({})
