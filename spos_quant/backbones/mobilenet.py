"""MobileNetV2 (arXiv 1801.04381) and MobileNetV3 (arXiv 1905.02244) with the layer names of torchvision's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from spos_quant.backbones.registry import backbones
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.blocks import BlockSpec
from spos_quant.supernet.joins import chain, residual
from spos_quant.supernet.layers import conv
from spos_quant.supernet.network import BlockBuilder


@dataclass(frozen=True)
class Row:
    """One inverted residual block. `inner` is the number of expanded channels."""

    kernel: int
    inner: int
    outputs: int
    squeeze: bool
    activation: Callable[[], nn.Module]
    stride: int

    @property
    def own_op(self) -> str:
        """The operator of the published network."""
        return f"mbconv{self.kernel}x{self.kernel}" + ("_se" if self.squeeze else "")


class MobileNet(nn.Module):
    """`features` (stem, inverted residuals, 1x1 convolution), global pooling, `classifier`.

    Args:
        rows: The inverted residuals.
        stem: Output channels of the stem.
        last: Output channels of the last convolution.
        activation: Activation of the stem and the last convolution.
        norm: BatchNorm of the stem, the last convolution and the blocks.
        container: torchvision's attribute name for the layers of a block.
        classifier: Module applied to the pooled channels.
        stem_stride: Stride of the stem.
    """

    def __init__(
        self,
        spec: SpaceSpec,
        builder: BlockBuilder,
        *,
        rows: Sequence[Row],
        stem: int,
        last: int,
        activation: Callable[[], nn.Module],
        norm: Callable[[int], SwitchBatchNorm2d],
        container: str,
        classifier: nn.Module,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        first = nn.Sequential(conv(spec.input[0], stem, 3, stem_stride, signed=True), norm(stem), activation())
        inputs, signed = stem, activation is nn.Hardswish
        features: list[nn.Module] = [first]
        for i, row in enumerate(rows, 1):
            block_spec = BlockSpec(
                inputs,
                row.outputs,
                row.stride,
                inner=row.inner,
                signed=signed,
                activation=row.activation,
                norm=norm,
                container=container,
            )
            join = residual if block_spec.keeps_shape else chain
            features.append(builder.block(f"features.{i}", block_spec, own_op=row.own_op, join=join))
            inputs, signed = row.outputs, True  # a block has no activation after its last convolution
        features.append(nn.Sequential(conv(inputs, last, 1, signed=True), norm(last), activation()))
        self.features = nn.Sequential(*features)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits `[N, classes]` from images `[N, C, H, W]`."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


# Expansion, output channels, number of blocks, stride of the first block: Table 2 of the paper.
_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_V2_CIFAR = (
    (1, 8, 1, 1),
    (6, 16, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)


def _v2(
    spec: SpaceSpec,
    builder: BlockBuilder,
    table: Sequence[tuple[int, ...]],
    *,
    stem: int = 32,
    last: int = 1280,
    stem_stride: int = 2,
) -> nn.Module:
    rows, inputs = [], stem
    for expansion, outputs, depth, stride in table:
        for i in range(depth):
            rows.append(Row(3, inputs * expansion, outputs, False, nn.ReLU6, stride if i == 0 else 1))
            inputs = outputs
    return MobileNet(
        spec,
        builder,
        rows=rows,
        stem=stem,
        last=last,
        activation=nn.ReLU6,
        norm=SwitchBatchNorm2d,
        container="conv",
        classifier=nn.Sequential(nn.Dropout(0.2), SwitchLayer(nn.Linear(last, spec.classes))),
        stem_stride=stem_stride,
    )


@backbones.register("mobilenetv2")
def mobilenetv2(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
    """MobileNetV2 at width 1.0."""
    return _v2(spec, builder, _V2)


@backbones.register("mobilenetv2-cifar")
def mobilenetv2_cifar(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
    """MobileNetV2 at width 0.5 for 32 x 32 images: the stem and the first stage of stride 2 have stride 1 instead."""
    return _v2(spec, builder, _V2_CIFAR, stem=16, last=640, stem_stride=1)


# Kernel, inner channels, output channels, squeeze-and-excitation, hard-swish, stride: Tables 1 and 2 of the paper.
_V3_LARGE = (
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)
_V3_SMALL = (
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)


def _v3(spec: SpaceSpec, builder: BlockBuilder, table: Sequence[tuple[int, ...]], hidden: int) -> nn.Module:
    rows = [
        Row(kernel, inner, outputs, bool(squeeze), nn.Hardswish if swish else nn.ReLU, stride)
        for kernel, inner, outputs, squeeze, swish, stride in table
    ]
    last = 6 * rows[-1].outputs
    return MobileNet(
        spec,
        builder,
        rows=rows,
        stem=16,
        last=last,
        activation=nn.Hardswish,
        norm=partial(SwitchBatchNorm2d, eps=1e-3, momentum=0.01),
        container="block",
        classifier=nn.Sequential(
            SwitchLayer(nn.Linear(last, hidden), signed=True),
            nn.Hardswish(),
            nn.Dropout(0.2),
            SwitchLayer(nn.Linear(hidden, spec.classes), signed=True),
        ),
    )


@backbones.register("mobilenetv3-large")
def mobilenetv3_large(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
    """MobileNetV3-Large at width 1.0."""
    return _v3(spec, builder, _V3_LARGE, 1280)


@backbones.register("mobilenetv3-small")
def mobilenetv3_small(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
    """MobileNetV3-Small at width 1.0."""
    return _v3(spec, builder, _V3_SMALL, 1024)
