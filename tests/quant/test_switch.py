"""Switchable layers against stock Brevitas layers that are built by hand on the sliced weight."""

from __future__ import annotations

import copy
from typing import Any

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor, nn

from spos_quant.errors import ModelError
from spos_quant.quant.quantizers import absmax, gaussian, pact
from spos_quant.quant.switch import InputQuantizer, SwitchBatchNorm2d, SwitchLayer, cached_weights

CASES: dict[str, tuple[Any, tuple[tuple[int, int], ...]]] = {
    "conv": (lambda: nn.Conv2d(6, 8, 3, padding=1, bias=False), ((6, 8), (6, 2), (4, 6), (1, 1))),
    "strided with bias": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=2, dilation=2), ((6, 8), (3, 5))),
    "groups of two": (lambda: nn.Conv2d(8, 12, 3, padding=1, groups=4), ((8, 12), (6, 9), (2, 3))),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), ((8, 8), (4, 4), (1, 1))),
    "linear": (lambda: nn.Linear(10, 6), ((10, 6), (10, 3), (4, 6))),
}
SLICES = [(case, i, o) for case, (_, slices) in CASES.items() for i, o in slices]
BITS = ((1, 1), (1, 8), (2, 2), (3, 5), (4, 4), (8, 3), (None, 2), (2, None))


def make(case: str, bits: tuple[Any, ...], *, signed: bool = False, quantizer: str = "gaussian+pact") -> SwitchLayer:
    layer = SwitchLayer(CASES[case][0](), signed=signed)
    shared = InputQuantizer([a for _, a in bits if a], signed=signed, quantizer=quantizer)
    with torch.no_grad():
        for b in shared.by_bits:
            shared.clip(int(b)).copy_(0.5 + torch.rand(()))
    layer.quantize([w for w, _ in bits], quantizer, shared)
    return layer


def stock(layer: SwitchLayer, case: str, i: int, o: int, w: int | None, a: int | None, signed: bool = False) -> Any:
    """The Brevitas layer that a person would write for this slice."""
    float_layer = CASES[case][0]()
    quant = {
        "bias": float_layer.bias is not None,
        "weight_quant": None if w is None else gaussian(w),
        "input_quant": None if a is None else pact(a, signed),
    }
    if isinstance(float_layer, nn.Linear):
        made = qnn.QuantLinear(i, o, **quant)
        weight = layer.weight[:o, :i]
    else:
        groups = {"groups of two": o // 3, "depthwise": o}.get(case, 1)
        c = float_layer
        made = qnn.QuantConv2d(
            i, o, c.kernel_size, c.stride, c.padding, c.dilation, groups=groups, **quant
        )  # fmt: skip
        weight = layer.weight[:o, : i // groups]
    with torch.no_grad():
        made.weight.copy_(weight)
        if made.bias is not None:
            made.bias.copy_(layer.bias[:o])
        if a is not None:
            (clip,) = made.input_quant.parameters()
            clip.copy_(layer.input_quant.clip(a))
    return made


def images(case: str, channels: int) -> Tensor:
    shape = (5, channels) if case == "linear" else (3, channels, 6, 6)
    return torch.randn(shape, requires_grad=True)


@pytest.mark.parametrize(("w", "a"), BITS)
@pytest.mark.parametrize(("case", "i", "o"), SLICES)
def test_equals_the_stock_layer(case: str, i: int, o: int, w: int | None, a: int | None) -> None:
    signed = (w, a) in ((1, 1), (4, 4))
    layer = make(case, BITS, signed=signed)
    layer.activate_channels(i, o)
    layer.activate_bits(w, a)
    other = stock(layer, case, i, o, w, a, signed)
    for training in (True, False):
        layer.train(training)
        other.train(training)
        x = images(case, i)
        x_other = x.detach().clone().requires_grad_()
        y, y_other = layer(x), other(x_other)
        assert torch.equal(y, y_other)
        assert y.shape[1] == o
        layer.zero_grad()
        other.zero_grad()
        g = torch.randn_like(y)
        (y * g).sum().backward()
        (y_other * g).sum().backward()
        assert torch.equal(x.grad, x_other.grad)
        part = tuple(map(slice, other.weight.shape))
        assert layer.weight.grad is not None
        assert torch.equal(layer.weight.grad[part], other.weight.grad)
        assert other.weight.grad.any()
        outside = layer.weight.grad.clone()
        outside[part] = 0
        assert not outside.any()
        if other.bias is not None:
            assert torch.equal(layer.bias.grad[:o], other.bias.grad)
            assert not layer.bias.grad[o:].any()
        for b in layer.input_quant.by_bits:
            ours = layer.input_quant.clip(int(b)).grad
            if a is not None and int(b) == a:
                (theirs,) = (p.grad for p in other.input_quant.parameters())
                assert torch.equal(ours, theirs)
                assert ours != 0
            else:
                assert ours is None


def test_the_named_quantizer_is_used() -> None:
    layer = make("conv", ((2, 4),), quantizer="absmax+pact")
    layer.activate_bits(2, 4)
    x = images("conv", 6).detach()
    other = stock(layer, "conv", 6, 8, 2, 4)
    assert not torch.equal(layer(x), other(x)), "the Gaussian scale differs"
    rough = qnn.QuantConv2d(6, 8, 3, padding=1, bias=False, weight_quant=absmax(2), input_quant=pact(4, False))
    with torch.no_grad():
        rough.weight.copy_(layer.weight)
        next(rough.input_quant.parameters()).copy_(layer.input_quant.clip(4))
    assert torch.equal(layer(x), rough(x))


@pytest.mark.parametrize(("case", "i", "o"), SLICES)
def test_float_layer(case: str, i: int, o: int) -> None:
    """Without bits, and without any quantizer at all, it is the plain layer on the slice."""
    plain = SwitchLayer(CASES[case][0]())
    plain.activate_channels(i, o)
    x = images(case, i)
    reference = CASES[case][0]()
    whole_x = torch.zeros(*x.shape[:1], plain.in_channels, *x.shape[2:])
    whole_x[:, :i] = x.detach()
    with torch.no_grad():
        reference.weight.copy_(plain.weight)
        if reference.bias is not None:
            reference.bias.copy_(plain.bias)
    # Zeros in the channels outside of the slice change only the order of additions.
    torch.testing.assert_close(plain(x), reference(whole_x)[:, :o], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "i", "o"),
    [
        ("conv", 7, 8),
        ("conv", 6, 9),
        ("conv", 0, 8),
        ("conv", 6, 0),
        ("conv", -1, 8),
        ("linear", 11, 6),
        ("depthwise", 4, 8),
        ("depthwise", 9, 9),
        ("groups of two", 8, 9),
        ("groups of two", 5, 7),
    ],
)
def test_bad_channels(case: str, i: int, o: int) -> None:
    layer = make(case, BITS)
    with pytest.raises(ModelError, match=f"{i} -> {o}"):
        layer.activate_channels(i, o)
    assert (layer.active_in, layer.active_out) == (layer.in_channels, layer.out_channels)


def test_a_fraction_of_a_group_is_rejected() -> None:
    """Equal fractions of inputs and outputs are not enough: three channels are one and a half groups of two."""
    layer = SwitchLayer(nn.Conv2d(8, 8, 3, groups=4))
    with pytest.raises(ModelError, match="inside a group"):
        layer.activate_channels(3, 3)
    layer.activate_channels(4, 4)
    assert layer.active_groups == 2
    assert layer.active_weight().shape == (4, 2, 3, 3)


@pytest.mark.parametrize("layer", [nn.Conv3d(2, 2, 3), nn.ReLU()])
def test_layers_that_cannot_switch(layer: Any) -> None:
    with pytest.raises(ModelError, match="Conv3d|ReLU"):
        SwitchLayer(layer)


def test_bits_that_are_no_candidate_fail_at_once() -> None:
    layer = make("conv", ((2, 4),))
    layer.activate_bits(3, 4)
    with pytest.raises(KeyError):
        layer(images("conv", 6))


def test_one_weight_whatever_the_candidates() -> None:
    layer = make("conv", ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8)))
    clips = [name for name in layer.state_dict() if name != "weight"]
    assert len(clips) == 8
    assert all(name.startswith("input_quant.by_bits.") for name in clips)
    assert sum(p.numel() for p in layer.parameters()) == layer.weight.numel() + 8


def test_forward_leaves_the_float_weight_alone() -> None:
    layer = make("conv", BITS)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    for w, a in BITS:
        layer.activate_bits(w, a)
        layer(images("conv", 6)).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


def test_deepcopy_is_independent() -> None:
    layer = make("conv", ((2, 4), (1, 2)))
    layer.activate_bits(2, 4)
    x = images("conv", 6).detach()
    before = layer(x)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        twin.weight.mul_(-3)
        twin.input_quant.clip(4).mul_(0.5)
    twin.activate_bits(1, 2)
    assert torch.equal(layer(x), before)
    twin.activate_bits(2, 4)
    with torch.no_grad():
        layer.weight.mul_(-3)
        layer.input_quant.clip(4).mul_(0.5)
    assert torch.equal(twin(x), layer(x))
    assert not torch.equal(twin(x), before)


def test_each_bit_width_has_its_own_clip() -> None:
    quantizer = InputQuantizer([4, 2, 4, 8], signed=False, quantizer="gaussian+pact")
    assert list(quantizer.by_bits) == ["2", "4", "8"]
    with torch.no_grad():
        quantizer.clip(2).fill_(1.0)
    x = torch.full((3,), 100.0)
    assert [float(quantizer(x, b).detach().max()) for b in (2, 4, 8)] == pytest.approx([1.0, 6.0, 6.0])


@pytest.mark.parametrize("channels", [8, 5, 1])
def test_batch_norm_is_the_ordinary_one_of_the_slice(channels: int) -> None:
    norm, plain = SwitchBatchNorm2d(8), nn.BatchNorm2d(channels)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(8) + 0.5)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(plain, name).copy_(getattr(norm, name)[:channels])
    start = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    norm.activate_channels(channels)
    for _ in range(3):
        x = torch.randn(4, channels, 3, 3) * 2 + 1
        y, y_plain = norm(x), plain(x)
        assert torch.equal(y, y_plain)
        (y**3).sum().backward()
        (y_plain**3).sum().backward()
    assert torch.equal(norm.weight.grad[:channels], plain.weight.grad)
    assert torch.equal(norm.bias.grad[:channels], plain.bias.grad)
    assert plain.bias.grad.any()
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(norm, name)[:channels], getattr(plain, name))
        assert not torch.equal(getattr(norm, name)[:channels], start[name][:channels])
        assert torch.equal(getattr(norm, name)[channels:], start[name][channels:])
    assert not norm.weight.grad[channels:].any()
    norm.eval()
    plain.eval()
    x = torch.randn(2, channels, 3, 3)
    assert torch.equal(norm(x), plain(x))
    assert not torch.equal(norm(x), x)


def test_a_weight_is_quantized_once_while_weights_are_kept() -> None:
    layer = SwitchLayer(nn.Conv2d(4, 6, 3))
    layer.quantize([2, 4], "gaussian+pact")
    calls: list[int] = []
    for bits in ("2", "4"):
        layer.weight_quant[bits].register_forward_hook(lambda *_, bits=bits: calls.append(int(bits)))
    x = torch.randn(2, 4, 5, 5)
    layer.activate_bits(2, None)
    expected = layer(x)
    calls.clear()
    with torch.no_grad(), cached_weights([layer]):
        assert torch.equal(layer(x), expected)
        assert torch.equal(layer(x), expected)
        layer.activate_channels(4, 3)
        assert torch.allclose(layer(x), expected[:, :3], atol=1e-6)
        layer.activate_channels(4, 6)
        layer.activate_bits(4, None)
        assert not torch.equal(layer(x), expected)
        layer.activate_bits(2, None)
        assert torch.equal(layer(x), expected)
        assert calls == [2, 2, 4]
        with torch.enable_grad():  # a cached weight would get no gradient
            layer(x).sum().backward()
        assert layer.weight.grad.abs().sum() > 0
    with torch.no_grad():
        layer.weight.mul_(2)
        bias = layer.bias[:, None, None]
        torch.testing.assert_close(layer(x) - bias, 2 * (expected - bias), rtol=1e-3, atol=1e-4)
