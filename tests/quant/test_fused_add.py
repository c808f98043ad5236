"""Residual sums fused with their ReLU and quantizer: the values and gradients of separate operations."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spos_quant.quant import fused_add, kernels
from spos_quant.quant.fused_add import residual_sum
from spos_quant.quant.quantizers import gaussian, pact
from spos_quant.quant.switch import InputQuantizer, SwitchLayer


def reader(bits: int = 3, signed: bool = False) -> nn.Module:
    """A plain layer that quantizes its input, which has values beyond its clip."""
    torch.manual_seed(0)
    return qnn.QuantConv2d(6, 4, 3, weight_quant=gaussian(4), input_quant=pact(bits, signed).let(max_val=1.0))


def switchable(bits: int = 3, signed: bool = False) -> SwitchLayer:
    torch.manual_seed(0)
    layer = SwitchLayer(nn.Conv2d(6, 4, 3), signed=signed)
    layer.quantize([4], "gaussian+pact", InputQuantizer([2, bits], signed=signed, quantizer="gaussian+pact"))
    layer.activate_bits(4, bits)
    assert layer.input_quant is not None
    with torch.no_grad():
        layer.input_quant.clip(bits).fill_(1.0)
    return layer


@pytest.fixture
def as_if_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the code paths of compiled kernels without compiling any."""
    in_use = replace(kernels.EAGER, compiled=True)
    monkeypatch.setattr(fused_add, "active", lambda _x: in_use)


def summands(memory: torch.memory_format = torch.contiguous_format) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    a, b = (torch.randn(2, 6, 5, 4).contiguous(memory_format=memory).requires_grad_() for _ in range(2))
    return a, b


def results(layer: Any, made: Tensor, inputs: tuple[Tensor, ...], times: int = 1) -> list[Tensor]:
    """Outputs and all gradients of a sum that the layer reads `times` times and a shortcut once."""
    y = torch.cat([layer(made).flatten() for _ in range(times)] + [made.flatten() * 0.3])
    y = y * torch.linspace(-1, 2, y.numel())
    wanted = [*inputs, *layer.parameters()]
    return [y, *torch.autograd.grad(y.sum(), wanted, allow_unused=True)]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:
            assert a is b
            continue
        assert b.abs().max() > 0
        if b.dim() == 4 or b is theirs[0]:
            assert torch.equal(a, b)
        else:  # the gradient of the clip, which is a sum
            torch.testing.assert_close(a, b)


def plain(a: Tensor, b: Tensor, relu: bool) -> Tensor:
    return (a + b).relu() if relu else a + b


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("make", [reader, switchable])
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize(("relu", "signed"), [(True, False), (False, True), (False, False)])
def test_values_and_gradients(
    as_if_compiled: None, make: Any, bits: int, relu: bool, signed: bool, memory: torch.memory_format
) -> None:
    layer, (a, b) = make(bits, signed), summands(memory)
    made = residual_sum(a, b, layer, relu=relu)
    assert type(made.grad_fn).__name__ == "_SumLevelsBackward"
    assert made.is_contiguous(memory_format=memory)
    y = results(layer, made, (a, b))
    assert not vars(made), "the layer used the attached levels"
    equal(y, results(layer, plain(a, b, relu), (a, b)))


@pytest.mark.parametrize("relu", [True, False])
def test_two_readers_have_a_gradient_each(as_if_compiled: None, relu: bool) -> None:
    layer, (a, b) = reader(signed=not relu), summands()
    ours = results(layer, residual_sum(a, b, layer, relu=relu), (a, b), times=2)
    theirs = results(layer, plain(a, b, relu), (a, b), times=2)
    assert torch.equal(ours[0], theirs[0])
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("relu", [True, False])
def test_a_wrong_guess_changes_nothing(as_if_compiled: None, relu: bool) -> None:
    guess, layer, (a, b) = reader(2), reader(3), summands()
    made = residual_sum(a, b, guess, relu=relu)
    clip = next(iter(guess.input_quant.parameters()))
    (wrong,) = torch.autograd.grad(layer(made).sum(), clip, allow_unused=True, retain_graph=True)
    assert wrong is None, "an optimizer may change a parameter with a gradient of zero"
    equal(results(layer, made, (a, b)), results(layer, plain(a, b, relu), (a, b)))


@pytest.mark.parametrize("watch", ["retain_grad", "hook"])
def test_an_observed_gradient_is_complete(as_if_compiled: None, watch: str) -> None:
    found = []
    for folded in (True, False):
        layer, (a, b) = reader(), summands()
        made = residual_sum(a, b, layer, relu=True) if folded else plain(a, b, True)
        if watch == "hook":
            made.register_hook(lambda gradient: gradient * 2)
        else:
            made.retain_grad()
        (layer(made).sum() + made.square().sum()).backward()
        found.append((a.grad, made.grad if watch == "retain_grad" else None))
    assert found[1][0] is not None
    assert torch.equal(found[0][0], found[1][0])
    assert watch == "hook" or torch.equal(found[0][1], found[1][1])  # type: ignore[arg-type]


def test_a_detached_sum_is_quantized_again(as_if_compiled: None) -> None:
    layer, (a, b) = reader(), summands()
    layer.requires_grad_(False)
    made = residual_sum(a, b, layer, relu=False).detach_()
    assert not layer(made).requires_grad


def test_activation_checkpointing(as_if_compiled: None) -> None:
    """The second forward pass saves the same tensors as the first, whichever side of the sum is recomputed."""
    layer, (a, b) = reader(), summands()
    expected = torch.autograd.grad(layer(plain(a, b, True)).square().sum(), (a, b))
    again = partial(checkpoint, use_reentrant=False)
    for summed, read in ((again, again), (again, None), (None, again)):
        made = (summed or (lambda f, *x: f(*x)))(partial(residual_sum, reader=layer, relu=True), a, b)
        y = (read or (lambda f, *x: f(*x)))(layer, made)
        for ours, theirs in zip(torch.autograd.grad(y.square().sum(), (a, b)), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_a_sum_changed_in_place_is_quantized_again(as_if_compiled: None) -> None:
    layer, (a, b) = reader(), summands()
    made = residual_sum(a, b, layer, relu=True)
    with torch.no_grad():
        made.mul_(0.5)
        assert torch.equal(layer(made), layer(plain(a, b, True) * 0.5))


def test_second_derivatives(as_if_compiled: None) -> None:
    found = []
    for folded in (True, False):
        layer, (a, b) = reader(), summands()
        made = residual_sum(a, b, layer, relu=True) if folded else plain(a, b, True)
        y = (layer(made) ** 2).sum() + (made**3).sum()
        first = torch.autograd.grad(y, (a, *layer.input_quant.parameters()), create_graph=True)
        clip = next(iter(layer.input_quant.parameters()))
        found.append([*first, *torch.autograd.grad(sum((g**2).sum() for g in first), (a, b, clip))])
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs)


def test_nothing_is_attached_without_gradients(as_if_compiled: None) -> None:
    layer, (a, b) = reader(), summands()
    with torch.no_grad():
        assert not vars(residual_sum(a, b, layer, relu=True))
    with torch.inference_mode():
        assert torch.equal(residual_sum(a, b, layer, relu=False), a + b)
    frozen = residual_sum(a.detach(), b.detach(), layer, relu=False)
    assert not vars(frozen)
    assert not frozen.requires_grad
    for other in (nn.Conv2d(6, 4, 3), nn.ReLU(), qnn.QuantConv2d(6, 4, 3, weight_quant=None), switchable(1, True)):
        assert not vars(residual_sum(a, b, other, relu=True))
    layer = switchable()
    layer.activate_bits(4, None)
    assert not vars(residual_sum(a, b, layer, relu=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    ],
)
@pytest.mark.parametrize(("relu", "signed"), [(True, False), (False, True)])
def test_compiled(relu: bool, signed: bool, device: str) -> None:
    layer = reader(4, signed).to(device)
    a, b = (torch.randn(8, 6, 32, 32, device=device, requires_grad=True) for _ in range(2))
    with kernels.compiled_kernels(device=device) as compiled:
        assert compiled
        made = residual_sum(a, b, layer, relu=relu)
        assert vars(made)
        y = layer(made).square().sum() + made.sum()
        ours = [made, *torch.autograd.grad(y, (a, b, *layer.parameters()))]
    made = plain(a, b, relu)
    y = layer(made).square().sum() + made.sum()
    theirs = [made, *torch.autograd.grad(y, (a, b, *layer.parameters()))]
    assert torch.equal(ours[0], theirs[0])
    for mine, other in zip(ours[1:3], theirs[1:3], strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(ours[3:], theirs[3:], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)
