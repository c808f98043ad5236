"""The network of Single Path One-Shot NAS (arXiv 1904.00420, Sec. 4): 20 choice blocks derived from ShuffleNetV2."""

from __future__ import annotations

from torch import Tensor, nn

from spos_quant.backbones.registry import backbones
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.blocks import BlockSpec
from spos_quant.supernet.joins import concatenate, split
from spos_quant.supernet.layers import conv
from spos_quant.supernet.network import BlockBuilder

_STAGES = ((4, 64), (4, 160), (8, 320), (4, 640))
"""Number of blocks and output channels per stage."""
_STEM, _LAST = 16, 1024


class ShuffleNetV2(nn.Module):
    """Stem, stages `stage1` to `stage4`, a 1x1 convolution, pooling, classifier.

    The first block of each stage has stride 2. The convolutions and the classifier have no bias. At width 1.0, a block
    has half as many inner channels as output channels. A block of stride 1 processes every second input channel. A
    block of stride 2 processes all input channels, in parallel to a projection.
    """

    def __init__(self, spec: SpaceSpec, builder: BlockBuilder) -> None:
        super().__init__()
        self.conv1 = _conv_bn_relu(spec.input[0], _STEM, 3, 2, signed=True)
        inputs = _STEM
        self.stages = tuple(f"stage{i}" for i in range(1, len(_STAGES) + 1))
        for name, (depth, outputs) in zip(self.stages, _STAGES, strict=True):
            blocks = []
            for i in range(depth):
                if i == 0:
                    block_spec = BlockSpec(inputs, outputs - inputs, 2, inner=outputs // 2, projection=True)
                else:
                    block_spec = BlockSpec(inputs // 2, outputs - inputs // 2, inner=outputs // 2)
                join = concatenate if i == 0 else split
                blocks.append(builder.block(f"{name}.{i}", block_spec, own_op="shuffle3x3", join=join))
                inputs = outputs
            self.add_module(name, nn.Sequential(*blocks))
        self.conv5 = _conv_bn_relu(inputs, _LAST, 1, 1)
        self.dropout = nn.Dropout(0.1)
        self.fc = SwitchLayer(nn.Linear(_LAST, spec.classes, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits `[N, classes]` from images `[N, C, H, W]`."""
        x = self.conv1(x)
        for name in self.stages:
            x = self._modules[name](x)  # type: ignore[misc]
        logits: Tensor = self.fc(self.dropout(self.conv5(x).mean((2, 3))))
        return logits


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int, *, signed: bool = False) -> nn.Sequential:
    return nn.Sequential(
        conv(inputs, outputs, kernel, stride, signed=signed), SwitchBatchNorm2d(outputs), nn.ReLU(inplace=False)
    )


@backbones.register("shufflenetv2")
def shufflenetv2(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
    """The network of the paper's building block search and channel search."""
    return ShuffleNetV2(spec, builder)
