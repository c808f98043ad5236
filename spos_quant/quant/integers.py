"""Convolutions of integer codes by oneDNN, to evaluate candidates on processors with 8-bit multiplication (VNNI).

A quantized convolution is a sum of products of integer codes, times two scales. Fake quantization multiplies the codes
by their scales first and sums floats. Here the codes are summed as integers, without error, and the scales are applied
at the end. The two differ by the rounding of the float sums, and by one level if that rounding moves a value into the
next level (decision record 0041). The operators are private to torch, so they are looked up and tested before use.
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
    """A weight in the format of oneDNN."""

    codes: Tensor
    scales: Tensor
    """`[out]`."""
    zeros: Tensor


@cache
def integers_available() -> bool:
    """Whether this torch has the operators, and this processor has kernels that are fast and do not saturate."""
    if not hasattr(torch.ops.onednn, "qconv2d_pointwise") or not torch.cpu._is_vnni_supported():
        return False
    # The largest codes everywhere: 8-bit kernels that add pairs of products in 16 bits would saturate.
    codes = torch.full((1, 16, 4, 4), 255, dtype=torch.uint8)
    weight = torch.full((8, 16, 3, 3), 127, dtype=torch.int8)
    try:
        packed = _pack(weight, torch.ones(8), 1.0, 0, _Settings, 1, codes.shape)
        made = _run(codes, 1.0, 0, packed, None, _Settings, 1)
    except (AttributeError, RuntimeError, TypeError):  # a torch version whose operators have another signature
        return False
    return torch.equal(made, F.conv2d(codes.float(), weight.float(), padding=1))


class _Settings:
    """Settings of the test convolution."""

    stride = padding = dilation = (1, 1)


class PackedLayer(NamedTuple):
    """A layer at certain bits and channels, packed for inputs of one shape."""

    levels: Levels
    input_scale: float
    zero_point: int
    weight: PackedWeight


@torch.no_grad()
def integer_convolution(layer: SwitchLayer, x: Tensor) -> Tensor | None:
    """The layer's output for `x` with its active channels and bits, computed from sums of integers.

    None if only floats can compute it: another layer type, a float weight or input, a quantizer whose values are not
    integers times a scale, another dtype or device. Weights are packed once while `cached_weights` is open.
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
    return _run(codes, packed.input_scale, packed.zero_point, weight, bias, layer._geometry, layer.active_groups)


def _has_kernel(layer: SwitchLayer, x: Tensor) -> bool:
    if layer.kind.float_class is not nn.Conv2d or x.dim() != 4 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return layer.settings["padding_mode"] == "zeros" and not isinstance(layer.settings["padding"], str)


def _packed(layer: SwitchLayer, x: Tensor) -> PackedLayer | None:
    """The layer packed at its active bits and channels; None if weight or input has no integer codes."""
    assert layer.input_quant is not None
    assert layer.act_bits is not None
    levels = layer.input_quant.levels(layer.act_bits)
    quantizer: Any = layer.weight_quant[str(layer.weight_bits)].tensor_quant
    value, scale, *_ = quantizer(layer.active_weight())
    codes = torch.round(value / scale)
    if levels is None or codes.abs().max() > 127 or not torch.equal(codes * scale, value):
        return None
    input_scale, zero_point = float(levels.step), -int(levels.qmin)
    scales = scale.reshape(-1).expand(len(value)).contiguous()
    geometry = layer._geometry, layer.active_groups, x.shape
    weight = _pack(codes.to(torch.int8), scales, input_scale, zero_point, *geometry)
    return PackedLayer(levels, input_scale, zero_point, weight)


def _pack(
    codes: Tensor, scales: Tensor, input_scale: float, zero_point: int, settings: Any, groups: int, shape: torch.Size
) -> PackedWeight:
    geometry = [list(getattr(settings, name)) for name in ("stride", "padding", "dilation")]
    made = torch.ops.onednn.qconv_prepack(
        codes.contiguous(), scales, input_scale, zero_point, *geometry, groups, list(shape)
    )
    return PackedWeight(made, scales, torch.zeros(len(scales), dtype=torch.int32))


def _run(
    codes: Tensor,
    input_scale: float,
    zero_point: int,
    packed: PackedWeight,
    bias: Tensor | None,
    settings: Any,
    groups: int,
) -> Tensor:
    geometry = [list(getattr(settings, name)) for name in ("stride", "padding", "dilation")]
    weight = packed.codes, packed.scales, packed.zeros, bias
    output = (1.0, 0, torch.float32, "none", [None], "")  # float, without a post-op
    made: Tensor = torch.ops.onednn.qconv2d_pointwise(
        codes, input_scale, zero_point, *weight, *geometry, groups, *output
    )
    return made
