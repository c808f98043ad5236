"""Residual networks (He et al., arXiv 1512.03385) for ImageNet and CIFAR, and a small one for 8x8 digits."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from spos_quant.backbones.registry import backbones
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.blocks import BlockSpec
from spos_quant.supernet.layers import conv
from spos_quant.supernet.network import Backbone, BlockBuilder


class ResNet(nn.Module):
    """Stem, stages of residual blocks `layer1`, `layer2`, ..., global pooling, classifier.

    Args:
        depths: Blocks per stage.
        channels: Output channels per stage.
        stem: `(channels, kernel, stride, max pooling)`.
        projection: Whether a shortcut that changes the shape is a 1x1 convolution; else it has no parameters.
        head: Module name of the classifier, as in published weights.
        own_op: The operator of the published network.
    """

    def __init__(
        self,
        spec: SpaceSpec,
        builder: BlockBuilder,
        *,
        depths: Sequence[int],
        channels: Sequence[int],
        stem: tuple[int, int, int, bool],
        projection: bool,
        head: str,
        own_op: str = "conv3x3",
    ) -> None:
        super().__init__()
        inputs, kernel, stride, pool = stem
        self.conv1 = conv(spec.input[0], inputs, kernel, stride, signed=True)
        self.bn1 = SwitchBatchNorm2d(inputs)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        self.stages = tuple(f"layer{i}" for i in range(1, len(depths) + 1))
        for stage, (name, depth, outputs) in enumerate(zip(self.stages, depths, channels, strict=True)):
            blocks = []
            for i in range(depth):
                block_stride = 2 if stage > 0 and i == 0 else 1
                shortcut = _shortcut(inputs, outputs, block_stride, projection)
                block_spec = BlockSpec(inputs, outputs, block_stride)
                blocks.append(builder.block(f"{name}.{i}", block_spec, own_op=own_op, downsample=shortcut))
                inputs = outputs
            self.add_module(name, nn.Sequential(*blocks))
        self.head = head
        self.add_module(head, SwitchLayer(nn.Linear(inputs, spec.classes)))

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits `[N, classes]` from images `[N, C, H, W]`."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for name in self.stages:
            x = self._modules[name](x)  # type: ignore[misc]
        logits: Tensor = self._modules[self.head](x.mean((2, 3)))  # type: ignore[misc]
        return logits


class ZeroPadShortcut(nn.Module):
    """Option A of the paper, without parameters: subsamples pixels by `stride`, pads `added` zero channels.

    Half of the zero channels come before the input channels, half after.
    """

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = added, stride

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, H, W]` to `[N, C + added, H / stride, W / stride]`."""
        front = self.added // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.added - front))


def _shortcut(inputs: int, outputs: int, stride: int, projection: bool) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    if projection:
        return nn.Sequential(conv(inputs, outputs, 1, stride), SwitchBatchNorm2d(outputs))
    return ZeroPadShortcut(outputs - inputs, stride)


def _imagenet(depths: Sequence[int], own_op: str) -> Backbone:
    def make(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
        expansion = 4 if own_op == "bottleneck" else 1
        return ResNet(
            spec,
            builder,
            depths=depths,
            channels=[expansion * channels for channels in (64, 128, 256, 512)],
            stem=(64, 7, 2, True),
            projection=True,
            head="fc",
            own_op=own_op,
        )

    return make


def _cifar(depth: int) -> Backbone:
    def make(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
        blocks = (depth - 2) // 6
        return ResNet(
            spec,
            builder,
            depths=(blocks,) * 3,
            channels=(16, 32, 64),
            stem=(16, 3, 1, False),
            projection=False,
            head="linear",
        )

    return make


for _name, _depths, _op in (
    ("resnet18", (2, 2, 2, 2), "conv3x3"),
    ("resnet34", (3, 4, 6, 3), "conv3x3"),
    ("resnet50", (3, 4, 6, 3), "bottleneck"),
    ("resnet101", (3, 4, 23, 3), "bottleneck"),
):
    backbones.register(_name)(_imagenet(_depths, _op))
for _depth in (20, 32, 56):
    backbones.register(f"resnet{_depth}")(_cifar(_depth))


@backbones.register("digits-resnet")
def digits_resnet(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
    """Two stages of two blocks for 8x8 images. A search on it takes about a minute."""
    return ResNet(spec, builder, depths=(2, 2), channels=(16, 32), stem=(16, 3, 1, False), projection=True, head="fc")
