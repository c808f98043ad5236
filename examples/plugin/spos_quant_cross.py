"""A plug-in with the operator `cross3`, a 1x3 convolution and then a 3x1, and the backbone `stairs`."""

from torch import Tensor, nn

from spos_quant.backbones.registry import backbones
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.blocks import BlockSpec, Operator
from spos_quant.supernet.layers import conv
from spos_quant.supernet.network import BlockBuilder
from spos_quant.supernet.operators import operators


@operators.register("cross3")
def cross3(block_spec: BlockSpec) -> Operator:
    """A 1x3 convolution, then a 3x1; each applies one axis of the stride. The width sets the channels between them."""
    inner = block_spec.inner_widths()
    most, stride = max(inner), block_spec.stride
    row = nn.Conv2d(block_spec.inputs, most, (1, 3), (1, stride), (0, 1), bias=False)
    column = nn.Conv2d(most, block_spec.outputs, (3, 1), (stride, 1), (1, 0), bias=False)
    layers = {
        "conv1": SwitchLayer(row, signed=block_spec.signed),
        "bn1": block_spec.norm(most),
        "relu": nn.ReLU(),
        "conv2": SwitchLayer(column),
        "bn2": block_spec.norm(block_spec.outputs),
    }
    # Input and output channels of every layer that depends on the width, one number per width candidate.
    inputs, outputs = [block_spec.inputs] * len(inner), [block_spec.outputs] * len(inner)
    return Operator(layers, {"conv1": (inputs, inner), "bn1": (inner, inner), "conv2": (inner, outputs)})


class Stairs(nn.Module):
    """A stem, two stages of a block with stride 2 and a block with stride 1, and a classifier."""

    def __init__(self, spec: SpaceSpec, builder: BlockBuilder) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(spec.input[0], 8, 3, signed=True), SwitchBatchNorm2d(8), nn.ReLU())
        blocks, channels = [], 8
        for outputs in (16, 32):
            for stride in (2, 1):
                shortcut = None
                if stride == 2:
                    shortcut = nn.Sequential(conv(channels, outputs, 1, 2), SwitchBatchNorm2d(outputs))
                # The module name in the network, which overrides and bit configurations use.
                name, block_spec = f"blocks.{len(blocks)}", BlockSpec(channels, outputs, stride)
                blocks.append(builder.block(name, block_spec, own_op="conv3x3", downsample=shortcut))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = SwitchLayer(nn.Linear(channels, spec.classes))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, C, H, W]` images to `[n, classes]` logits."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@backbones.register("stairs")
def stairs(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
    """The backbone of search spaces with `backbone: stairs`."""
    return Stairs(spec, builder)
