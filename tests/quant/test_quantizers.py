"""Quantizers against formulas written out in plain torch, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spos_quant.errors import ConfigError
from spos_quant.quant.quantizers import act_quantizers, quantizer_pair, weight_quantizers
from spos_quant.quant.switch import InputQuantizer, SwitchLayer

SIGMA = {2: 0.706, 3: 1.914, 4: 2.78}
NAMES = ("gaussian", "absmax")
SHAPES = ((5, 3, 3, 3), (4, 1, 3, 3), (6, 7), (3, 8, 1, 1))


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """`value` to the last bit, with the gradient of `x`."""
    return value.detach() + (x - x.detach())


def round_through(x: Tensor) -> Tensor:
    return straight_through(x.round(), x)


def clamped(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Without gradient outside and with all of it on the bounds themselves."""
    return torch.where(x > high, high.type_as(x), torch.where(x < low, low.type_as(x), x))


def weight_by_hand(w: Tensor, bits: int, name: str) -> Tensor:
    """Levels by the formulas of the docstrings; the step takes part in the gradient, rounding passes it through."""
    flat = w.flatten(1)
    if bits == 1:
        threshold = flat.abs().mean(1).view(-1, *[1] * (w.dim() - 1))
        sign = torch.where(w >= 0, 1.0, -1.0)
        return straight_through(sign, w) * threshold
    top = 2 ** (bits - 1) - 1
    if name == "gaussian" and bits in SIGMA:
        size = flat.abs()
        largest = size.mean(1) + SIGMA[bits] * (size.var(1) + 1e-8).sqrt()
    else:
        largest = flat.abs().amax(1)
    step = (largest.clamp_min(1e-10) / top).view(-1, *[1] * (w.dim() - 1))
    codes = round_through(w / step)
    codes = straight_through(codes.clamp(-top, top), codes)
    return codes * step


def act_by_hand(x: Tensor, clip: Tensor, bits: int, signed: bool) -> Tensor:
    if signed and bits == 1:
        inside = clamped(x, -clip, clip)
        return straight_through(torch.where(x >= 0, 1.0, -1.0), inside) * clip
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    step = clip / (2 ** (bits - 1) if signed else high)
    return clamped(round_through(x / step), torch.tensor(low), torch.tensor(high)) * step


def switchable(shape: tuple[int, ...], bits: int, name: str) -> SwitchLayer:
    float_layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2])
    layer = SwitchLayer(float_layer)
    layer.quantize([bits], f"{name}+pact")
    return layer


def quantized(layer: SwitchLayer, bits: int) -> Tensor:
    value: Tensor = layer.weight_quant[str(bits)](layer.weight).value
    return value


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_weight_levels_and_gradients(name: str, shape: tuple[int, ...], bits: int) -> None:
    layer = switchable(shape, bits, name)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(shape) * torch.rand(shape[0]).view(-1, *[1] * (len(shape) - 1)))
    g = torch.randn(shape)

    ours = quantized(layer, bits)
    (ours * g).sum().backward()
    w = layer.weight.detach().clone().requires_grad_()
    by_hand = weight_by_hand(w, bits, name)
    (by_hand * g).sum().backward()

    torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(layer.weight.grad, w.grad, rtol=1e-4, atol=1e-5)
    for channel in ours.detach():
        assert 2 <= len(channel.unique()) <= 2**bits


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("clip", [0.7, 3.3, 6.0])
def test_activation_levels_and_gradients(clip: float, signed: bool, bits: int) -> None:
    quantizer = InputQuantizer([bits], signed=signed, quantizer="gaussian+pact")
    with torch.no_grad():
        quantizer.clip(bits).fill_(clip)
    values = torch.randn(4000) * clip * 0.8
    g = torch.randn(4000)

    x = values.clone().requires_grad_()
    ours = quantizer(x, bits)
    (ours * g).sum().backward()
    x_by_hand, threshold = values.clone().requires_grad_(), torch.tensor(clip, requires_grad=True)
    by_hand = act_by_hand(x_by_hand, threshold, bits, signed)
    (by_hand * g).sum().backward()

    torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-6)
    assert len(ours.unique()) == 2**bits
    if not signed:
        levels = torch.arange(2**bits) * clip / (2**bits - 1)
        torch.testing.assert_close(ours.detach().abs().unique(), levels, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.grad, x_by_hand.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.clip(bits).grad, threshold.grad, rtol=1e-3, atol=1e-3)
