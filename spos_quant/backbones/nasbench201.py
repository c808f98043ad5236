"""The network of NAS-Bench-201 (arXiv 2001.00326): 15 equal cells of six edges, each edge one of five operations.

Module names match the benchmark's own networks. `space.notation` parses the benchmark's architecture strings.
"""

from __future__ import annotations

from torch import Tensor, nn

from spos_quant.backbones.registry import backbones
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.blocks import BlockSpec
from spos_quant.supernet.joins import chain
from spos_quant.supernet.layers import conv
from spos_quant.supernet.network import BlockBuilder
from spos_quant.supernet.operators.cell import relu_conv_bn

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
"""Pairs (node, earlier node that it reads), in the order of the benchmark."""
_CELLS, _CHANNELS = 5, (16, 32, 64)


class Cell(nn.Module):
    """A cell of four nodes: each node sums the outputs of its incoming edges. All cells share the same six axes.

    Args:
        name: The module name of the cell.
        builder: Makes the edges.
        channels: Input and output channels.
    """

    def __init__(self, name: str, builder: BlockBuilder, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            builder.block(
                f"{name}.layers.{i}",
                BlockSpec(channels, channels, signed=True),
                own_op="nor_conv_3x3",
                join=chain,
                axis=f"{to}<-{source}",
            )
            for i, (to, source) in enumerate(EDGES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, H, W]` to the same shape."""
        nodes: list[Tensor] = [x]
        for node in (1, 2, 3):
            terms = [layer(nodes[source]) for layer, (to, source) in zip(self.layers, EDGES, strict=True) if to == node]
            nodes.append(sum(terms[1:], terms[0]))
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block between stages. It halves height and width and doubles the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_a = _Op(BlockSpec(inputs, outputs, 2, signed=True))
        self.conv_b = _Op(BlockSpec(outputs, outputs, signed=True))
        self.downsample = nn.Sequential(nn.AvgPool2d(2, 2), conv(inputs, outputs, 1, signed=True))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, H, W]` to `[N, 2C, H / 2, W / 2]`."""
        total: Tensor = self.downsample(x) + self.conv_b(self.conv_a(x))
        return total


class _Op(nn.Module):
    """ReLU, 3x3 convolution, BatchNorm in a submodule `op`, as in the benchmark's module names."""

    def __init__(self, block_spec: BlockSpec) -> None:
        super().__init__()
        self.op = relu_conv_bn(block_spec, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.op(x)
        return y


class NASBench201(nn.Module):
    """Stem, three stages of five cells with residual reductions between them, pooling, classifier."""

    def __init__(self, spec: SpaceSpec, builder: BlockBuilder) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(spec.input[0], _CHANNELS[0], 3, signed=True), SwitchBatchNorm2d(_CHANNELS[0]))
        cells: list[nn.Module] = []
        inputs = _CHANNELS[0]
        for channels in _CHANNELS:
            if channels != inputs:
                cells.append(Reduction(inputs, channels))
                inputs = channels
            for _ in range(_CELLS):
                cells.append(Cell(f"cells.{len(cells)}", builder, channels))
        self.cells = nn.Sequential(*cells)
        self.lastact = nn.Sequential(SwitchBatchNorm2d(inputs), nn.ReLU())
        self.classifier = SwitchLayer(nn.Linear(inputs, spec.classes))

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits `[N, classes]` from images `[N, C, H, W]`."""
        logits: Tensor = self.classifier(self.lastact(self.cells(self.stem(x))).mean((2, 3)))
        return logits


@backbones.register("nasbench201")
def nasbench201(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
    """The benchmark's network: a stem of 16 channels and stages of 16, 32 and 64 channels."""
    return NASBench201(spec, builder)
