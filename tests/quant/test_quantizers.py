"""Quantizers against formulas written out in plain torch, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spos_quant.errors import ConfigError
from spos_quant.quant.quantizers import act_quantizers, quantizer_pair, weight_quantizers
from spos_quant.quant.switch import InputQuantizer, SwitchLayer

SIGMA = {2: 0.706, 3: 1.914, 4: 2.78}
NAMES = ("gaussian", "absmax", "midrise")
SHAPES = ((5, 3, 3, 3), (4, 1, 3, 3), (6, 7), (3, 8, 1, 1))


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """`value` to the last bit, with the gradient of `x`."""
    return value.detach() + (x - x.detach())


def round_through(x: Tensor) -> Tensor:
    return straight_through(x.round(), x)


def clamped(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Without gradient outside, and with the full gradient on the bounds themselves."""
    return torch.where(x > high, high.type_as(x), torch.where(x < low, low.type_as(x), x))


def weight_by_hand(w: Tensor, bits: int, name: str) -> Tensor:
    """Levels by the formulas of the docstrings; the scale has a gradient, rounding is straight-through."""
    flat = w.flatten(1)
    if bits == 1:
        clip = flat.abs().mean(1).view(-1, *[1] * (w.dim() - 1))
        sign = torch.where(w >= 0, 1.0, -1.0)
        return straight_through(sign, w) * clip
    odd = name == "midrise" and bits == 2
    qmax = 3 if odd else 2 ** (bits - 1) - 1
    sigma = 1.154 if odd else None if name == "absmax" else SIGMA.get(bits)
    magnitude = flat.abs()
    clip = magnitude.amax(1) if sigma is None else magnitude.mean(1) + sigma * (magnitude.var(1) + 1e-8).sqrt()
    scale = (clip.clamp_min(1e-10) / qmax).view(-1, *[1] * (w.dim() - 1))
    codes = round_through(w / scale)
    if odd:
        half = w / (2 * scale)
        codes = straight_through(half.floor(), half) * 2 + 1
    codes = straight_through(codes.clamp(-qmax, qmax), codes)
    return codes * scale


def act_by_hand(x: Tensor, clip: Tensor, bits: int, signed: bool) -> Tensor:
    if signed and bits == 1:
        inside = clamped(x, -clip, clip)
        return straight_through(torch.where(x >= 0, 1.0, -1.0), inside) * clip
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = clip / (2 ** (bits - 1) if signed else qmax)
    return clamped(round_through(x / scale), torch.tensor(qmin), torch.tensor(qmax)) * scale


def switchable(shape: tuple[int, ...], bits: int, name: str) -> SwitchLayer:
    float_layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2])
    layer = SwitchLayer(float_layer)
    layer.quantize([bits], f"{name}+pact")
    return layer


def quantized(layer: SwitchLayer, bits: int) -> Tensor:
    value: Tensor = layer.weight_quant[str(bits)](layer.weight)
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
    values = torch.linspace(-1.5, 1.5, 2001)[torch.randperm(2001)] * clip
    g = torch.randn(2001)

    x = values.clone().requires_grad_()
    ours = quantizer(x, bits)
    (ours * g).sum().backward()
    x_by_hand, clip_by_hand = values.clone().requires_grad_(), torch.tensor(clip, requires_grad=True)
    by_hand = act_by_hand(x_by_hand, clip_by_hand, bits, signed)
    (by_hand * g).sum().backward()

    torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-6)
    assert len(ours.unique()) == 2**bits
    if not signed:
        levels = torch.arange(2**bits) * clip / (2**bits - 1)
        torch.testing.assert_close(ours.detach().abs().unique(), levels, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.grad, x_by_hand.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.clip(bits).grad, clip_by_hand.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("bits", "scale"), [(2, 1.224), (3, 0.651), (4, 0.353)])
def test_gaussian_scale_has_the_least_squared_error(bits: int, scale: float) -> None:
    """Max 1960 gives the scale in standard deviations; a larger or smaller one, or absmax, increases the error."""
    layer = switchable((8, 4096, 1, 1), bits, "gaussian")
    coarse = switchable((8, 4096, 1, 1), bits, "absmax")
    with torch.no_grad():
        layer.weight.copy_(torch.randn(8, 4096, 1, 1) * torch.tensor([0.01, 3.0] * 4).view(8, 1, 1, 1))
        coarse.weight.copy_(layer.weight)
        ours, w = quantized(layer, bits).flatten(1), layer.weight.flatten(1)
        # The smallest positive level is the scale.
        found = torch.stack([row[row > 0].min() for row in ours]) / w.std(1)
        torch.testing.assert_close(found, torch.full((8,), scale), rtol=0.03, atol=0)

        def error(factor: float) -> float:
            s, qmax = w.std(1, keepdim=True) * scale * factor, 2 ** (bits - 1) - 1
            relative = (((w / s).round().clamp(-qmax, qmax) * s - w).square().mean(1) / w.var(1)).mean()
            return float(relative.detach())

        own = float(((ours - w).square().mean(1) / w.var(1)).mean())
        worse = float(((quantized(coarse, bits).flatten(1) - w).square().mean(1) / w.var(1)).mean())
    assert own < error(0.9)
    assert own < error(1.1)
    assert own < 0.9 * worse


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 1), (4, 1, 1, 1), (3, 5), (2, 3, 3, 3)])
@pytest.mark.parametrize("case", ["zero", "constant", "one channel zero", "tiny", "huge", "random"])
def test_weight_gradients_are_finite(case: str, shape: tuple[int, ...], name: str, bits: int) -> None:
    """Also if the deviation, the maximum or a whole channel is zero, or a channel has a single weight."""
    layer = switchable(shape, bits, name)
    w = torch.randn(shape)
    if case == "one channel zero":
        w[0] = 0
    scale = {"zero": 0.0, "tiny": 1e-12, "huge": 1e12}.get(case, 1.0)
    values = torch.full(shape, -0.3) if case == "constant" else w * scale
    with torch.no_grad():
        layer.weight.copy_(values)
    ours = quantized(layer, bits)
    (ours * torch.randn(shape)).sum().backward()
    assert ours.isfinite().all()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
    assert torch.equal(layer.weight, values), "the float weight was changed in place"


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_clip_of_a_single_weight_per_channel_is_that_weight(bits: int) -> None:
    layer = switchable((4, 1, 1, 1), bits, "gaussian")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0, 0.01, 7.0]).view(4, 1, 1, 1))
    torch.testing.assert_close(quantized(layer, bits), layer.weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e30])
def test_activation_gradients_are_finite(value: float, signed: bool, bits: int) -> None:
    quantizer = InputQuantizer([bits], signed=signed, quantizer="absmax+pact")
    x = torch.full((2, 3), value, requires_grad=True)
    before = x.detach().clone()
    y = quantizer(x, bits)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    clip = quantizer.clip(bits)
    assert clip.grad is not None
    assert clip.grad.isfinite()
    assert torch.equal(x, before)


def test_saturated_values_have_a_gradient_for_the_clip_only() -> None:
    """PACT: values above the clip give it their full gradient, values below zero none."""
    quantizer = InputQuantizer([4], signed=False, quantizer="gaussian+pact")
    x = torch.tensor([100.0, 50.0, -3.0], requires_grad=True)
    (quantizer(x, 4) * torch.tensor([2.0, 5.0, 11.0])).sum().backward()
    assert quantizer.clip(4).grad is not None
    assert float(quantizer.clip(4).grad) == pytest.approx(7.0)
    assert torch.equal(x.grad, torch.zeros(3))


def test_pair_of_names() -> None:
    weight, act = quantizer_pair("absmax+pact")
    assert weight is weight_quantizers["absmax"]
    assert act is act_quantizers["pact"]
    assert weight is not weight_quantizers["gaussian"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gaussian", "WEIGHTS\\+ACTIVATIONS"),
        ("gausian+pact", "unknown weight quantizer 'gausian'; did you mean 'gaussian'"),
        ("gaussian+pakt", "unknown activation quantizer 'pakt'; did you mean 'pact'"),
        ("gaussian+", "unknown activation quantizer ''"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantizer_pair(name)
