"""Building blocks of Single Path One-Shot NAS (arXiv 1904.00420, Sec. 4.1), after ShuffleNetV2 (arXiv 1807.11164).

Layers are named as in torchvision's ShuffleNetV2: `branch2` is the main sequence, `branch1` the projection at stride 2.
"""

from __future__ import annotations

from torch import nn

from spos_quant.supernet.blocks import BlockSpec, Operator, Widths
from spos_quant.supernet.layers import conv
from spos_quant.supernet.operators import operators

_Layer = tuple[nn.Module, Widths, Widths]
"""A layer, with its input and output channels for every width."""


def _pointwise(block_spec: BlockSpec, inputs: Widths, outputs: Widths, *, signed: bool = True) -> list[_Layer]:
    """1x1, BN, ReLU; signed by default, as the input follows a BatchNorm."""
    made = conv(max(inputs), max(outputs), 1, signed=signed)
    return [(made, inputs, outputs), (block_spec.norm(max(outputs)), outputs, outputs), (nn.ReLU(), outputs, outputs)]


def _depthwise(
    block_spec: BlockSpec, channels: Widths, kernel: int, stride: int = 1, *, signed: bool = False
) -> list[_Layer]:
    """Depthwise k x k, BN; unsigned by default, as the input follows a ReLU."""
    most = max(channels)
    made = conv(most, most, kernel, stride, groups=most, signed=signed)
    return [(made, channels, channels), (block_spec.norm(most), channels, channels)]


def _operator(block_spec: BlockSpec, kernel: int, row: list[_Layer]) -> Operator:
    layers: dict[str, nn.Module] = {}
    if block_spec.projection:
        whole = [block_spec.inputs]
        beside = [
            *_depthwise(block_spec, whole, kernel, block_spec.stride, signed=block_spec.signed),
            *_pointwise(block_spec, whole, whole),
        ]
        layers["branch1"] = nn.Sequential(*(layer for layer, _, _ in beside))
    layers["branch2"] = nn.Sequential(*(layer for layer, _, _ in row))
    channels = {f"branch2.{i}": (inputs, outputs) for i, (_, inputs, outputs) in enumerate(row)}
    return Operator(layers, channels, "branch1" if block_spec.projection else None)


def _shuffle(block_spec: BlockSpec, kernel: int) -> Operator:
    inputs, inner, outputs = _channels(block_spec)
    row = [
        *_pointwise(block_spec, inputs, inner, signed=block_spec.signed),
        *_depthwise(block_spec, inner, kernel, block_spec.stride),
        *_pointwise(block_spec, inner, outputs),
    ]
    return _operator(block_spec, kernel, row)


def _channels(block_spec: BlockSpec) -> tuple[Widths, Widths, Widths]:
    inner = block_spec.inner_widths()
    return [block_spec.inputs] * len(inner), inner, [block_spec.outputs] * len(inner)


@operators.register("shuffle3x3")
def shuffle3x3(block_spec: BlockSpec) -> Operator:
    """1x1, depthwise 3x3, 1x1: the unit of ShuffleNetV2."""
    return _shuffle(block_spec, 3)


@operators.register("shuffle5x5")
def shuffle5x5(block_spec: BlockSpec) -> Operator:
    """1x1, depthwise 5x5, 1x1."""
    return _shuffle(block_spec, 5)


@operators.register("shuffle7x7")
def shuffle7x7(block_spec: BlockSpec) -> Operator:
    """1x1, depthwise 7x7, 1x1."""
    return _shuffle(block_spec, 7)


@operators.register("xception")
def xception(block_spec: BlockSpec) -> Operator:
    """Three times depthwise 3x3 and 1x1, after Xception (arXiv 1610.02357); the first depthwise has the stride."""
    inputs, inner, outputs = _channels(block_spec)
    row = [
        *_depthwise(block_spec, inputs, 3, block_spec.stride, signed=block_spec.signed),
        *_pointwise(block_spec, inputs, inner),
        *_depthwise(block_spec, inner, 3),
        *_pointwise(block_spec, inner, inner),
        *_depthwise(block_spec, inner, 3),
        *_pointwise(block_spec, inner, outputs),
    ]
    return _operator(block_spec, 3, row)
