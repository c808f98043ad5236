"""Inverted residuals of MobileNetV2 (arXiv 1801.04381) and V3 (arXiv 1905.02244): `mbconv3x3`, `mbconv5x5_se`, ...

The backbone sets the inner channels, the activation and the name of the layer list in published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from spos_quant.supernet.blocks import BlockSpec, Operator, Widths
from spos_quant.supernet.layers import SqueezeExcite, conv
from spos_quant.supernet.operators import operators

_DIVISOR = 8
"""Channels of these networks are multiples of this."""


def _mbconv(block_spec: BlockSpec, *, kernel: int, squeeze: bool) -> Operator:
    """1x1 expansion, depthwise k x k, optional squeeze-and-excitation, 1x1 projection without activation.

    If the inner channels equal the input channels, there is no expansion and the width does not vary.
    """
    expands = (block_spec.inner or block_spec.outputs) != block_spec.inputs
    inner: Widths = (
        block_spec.inner_widths(divisor=_DIVISOR) if expands else [block_spec.inputs] * len(block_spec.widths)
    )
    most, fixed_in, fixed_out = max(inner), [block_spec.inputs] * len(inner), [block_spec.outputs] * len(inner)
    negative = block_spec.activation is nn.Hardswish
    parts: list[tuple[nn.Module, list[tuple[str, Widths, Widths]]]] = []
    if expands:
        layer = conv(block_spec.inputs, most, 1, signed=block_spec.signed)
        parts.append(_part(block_spec, layer, fixed_in, inner))
    signed = negative if expands else block_spec.signed
    parts.append(
        _part(block_spec, conv(most, most, kernel, block_spec.stride, groups=most, signed=signed), inner, inner)
    )
    if squeeze:
        squeezed = [squeezed_channels(channels) for channels in inner]
        made = SqueezeExcite(most, max(squeezed), signed=negative)
        parts.append((made, [("fc1", inner, squeezed), ("fc2", squeezed, inner)]))
    last = conv(most, block_spec.outputs, 1, signed=negative)
    parts.append(_part(block_spec, last, inner, fixed_out, activation=False))
    return _named(block_spec.container, parts)


def _part(
    block_spec: BlockSpec, layer: nn.Module, inputs: Widths, outputs: Widths, *, activation: bool = True
) -> tuple[nn.Module, list[tuple[str, Widths, Widths]]]:
    """A convolution with its BatchNorm and activation, and the channels of both."""
    rest = [block_spec.activation()] if activation else []
    made = nn.Sequential(layer, block_spec.norm(max(outputs)), *rest)
    return made, [("0", inputs, outputs), ("1", outputs, outputs)]


def _named(container: str, parts: Sequence[tuple[nn.Module, list[tuple[str, Widths, Widths]]]]) -> Operator:
    """The operator whose list of layers is called `container`."""
    made = [part for part, _ in parts]
    channels = {
        f"{container}.{i}.{name}": (inputs, outputs)
        for i, (_, widths) in enumerate(parts)
        for name, inputs, outputs in widths
    }
    if container == "conv":  # torchvision's MobileNetV2 does not nest the last convolution and BatchNorm in a list
        last = len(parts) - 1
        channels[f"conv.{last + 1}"] = channels.pop(f"conv.{last}.1")
        channels[f"conv.{last}"] = channels.pop(f"conv.{last}.0")
        made[last:] = list(made[last].children())
    return Operator({container: nn.Sequential(*made)}, channels)


def squeezed_channels(channels: int) -> int:
    """A quarter of `channels`, rounded to a multiple of 8, but never down by more than a tenth (MobileNetV3)."""
    quarter = channels // 4
    rounded = max(_DIVISOR, (quarter + _DIVISOR // 2) // _DIVISOR * _DIVISOR)
    return rounded if rounded >= 0.9 * quarter else rounded + _DIVISOR


for _kernel in (3, 5, 7):
    operators.register(f"mbconv{_kernel}x{_kernel}")(partial(_mbconv, kernel=_kernel, squeeze=False))
    operators.register(f"mbconv{_kernel}x{_kernel}_se")(partial(_mbconv, kernel=_kernel, squeeze=True))
