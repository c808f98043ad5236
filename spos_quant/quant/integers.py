"""Convolutions of integer codes by oneDNN, for judging candidates where the processor multiplies 8 bits (VNNI).

A quantized convolution is a sum of products of codes times two steps. Fake quantization multiplies the codes with their
steps first and sums floats; here the codes are summed as integers, without an error, and the steps multiplied at the
end. The two differ by the rounding of the float sums, and where that moves a value over the border of a level, by that
level (decision record 0041). The operators are private to torch: they are looked for and tried before they are used.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spos_quant.quant.fused_quant import integer_codes

if TYPE_CHECKING:
    from spos_quant.quant.switch import Levels, SwitchLayer


class PackedWeight(NamedTuple):
    """A weight as oneDNN takes it."""

    codes: Tensor
    scales: Tensor
    """`[out]` steps."""
    zeros: Tensor


@cache
def integers_available() -> bool:
    """Whether this torch has the operators, and this processor kernels that are fast and do not saturate."""
    if not hasattr(torch.ops.onednn, "qconv2d_pointwise") or not torch.cpu._is_vnni_supported():
        return False
    # The largest codes side by side: 8-bit kernels that add pairs in 16 bits would cut these sums off.
    codes = torch.full((1, 16, 4, 4), 255, dtype=torch.uint8)
    weight = torch.full((8, 16, 3, 3), 127, dtype=torch.int8)
    try:
        packed = _pack(weight, torch.ones(8), 1.0, 0, _Settings, 1, codes.shape)
        made = _run(codes, 1.0, 0, packed, None, _Settings, 1)
    except (AttributeError, RuntimeError, TypeError):  # other arguments than those of the torch that this knows
        return False
    return torch.equal(made, F.conv2d(codes.float(), weight.float(), padding=1))


class _Settings:
    """Of the convolution that is tried."""

    stride = padding = dilation = (1, 1)


class PackedLayer(NamedTuple):
    """A layer at some bits and channels, for inputs of one shape."""

    levels: Levels
    step: float
    zero_point: int
    weight: PackedWeight


@torch.no_grad()
def integer_convolution(layer: SwitchLayer, x: Tensor) -> Tensor | None:
    """What the layer gives for `x` with its active channels and bits, from sums of integers.

    None where it can be had from floats alone: another kind of layer, a float weight or input, a quantizer whose values
    are no multiples of a step, another type or device. Weights are packed once while the layer keeps them.
    """
    if layer.kept is None or layer.weight_bits is None or layer.act_bits is None or not _has_kernel(layer, x):
        return None
    key = "packed", layer.weight_bits, layer.act_bits, layer.active_in, layer.active_out, *x.shape
    if key not in layer.kept:
        layer.kept[key] = _packed(layer, x)
    packed: PackedLayer | None = layer.kept[key]
    if packed is None:
        return None
    weight, bias = packed.weight, layer.active_bias()
    if layer.norm is not None:
        factor, constant = layer.norm.line()
        weight = weight._replace(scales=weight.scales * factor)
        bias = constant if bias is None else bias * factor + constant
    codes = integer_codes(x, *packed.levels)
    return _run(codes, packed.step, packed.zero_point, weight, bias, layer._geometry, layer.active_groups)


def _has_kernel(layer: SwitchLayer, x: Tensor) -> bool:
    if layer.kind.float_class is not nn.Conv2d or x.dim() != 4 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return layer.settings["padding_mode"] == "zeros" and not isinstance(layer.settings["padding"], str)


def _packed(layer: SwitchLayer, x: Tensor) -> PackedLayer | None:
    """The layer at its active bits and channels; None where weight or input is not made of codes."""
    assert layer.input_quant is not None
    assert layer.act_bits is not None
    levels = layer.input_quant.levels(layer.act_bits)
    quantizer: Any = layer.weight_quant[str(layer.weight_bits)].tensor_quant
    value, scale, *_ = quantizer(layer.active_weight())
    codes = torch.round(value / scale)
    if levels is None or codes.abs().max() > 127 or not torch.equal(codes * scale, value):
        return None
    step, zero_point = float(levels.step), -int(levels.qmin)
    scales = scale.reshape(-1).expand(len(value)).contiguous()
    where = layer._geometry, layer.active_groups, x.shape
    return PackedLayer(levels, step, zero_point, _pack(codes.to(torch.int8), scales, step, zero_point, *where))


def _pack(
    codes: Tensor, scales: Tensor, step: float, zero_point: int, settings: Any, groups: int, shape: torch.Size
) -> PackedWeight:
    where = [list(getattr(settings, name)) for name in ("stride", "padding", "dilation")]
    made = torch.ops.onednn.qconv_prepack(codes.contiguous(), scales, step, zero_point, *where, groups, list(shape))
    return PackedWeight(made, scales, torch.zeros(len(scales), dtype=torch.int32))


def _run(
    codes: Tensor, step: float, zero_point: int, packed: PackedWeight, bias: Tensor | None, settings: Any, groups: int
) -> Tensor:
    where = [list(getattr(settings, name)) for name in ("stride", "padding", "dilation")]
    weight = packed.codes, packed.scales, packed.zeros, bias
    plain = (1.0, 0, torch.float32, "none", [None], "")  # float answers, and nothing done with them
    made: Tensor = torch.ops.onednn.qconv2d_pointwise(codes, step, zero_point, *weight, *where, groups, *plain)
    return made
