from __future__ import annotations

import copy
from typing import Any

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor, nn

from spos_quant.quant.quantizers import gaussian, pact
from spos_quant.quant.static import StaticMaker, Switchable, is_quant_layer, read_bits, read_signed, static_batch_norm
from spos_quant.quant.switch import InputQuantizer, SwitchBatchNorm2d, SwitchLayer


def switch(layer: Any, w: int | None, a: int | None, *, signed: bool = False, clip: float = 1.7) -> SwitchLayer:
    made = SwitchLayer(layer, signed=signed)
    shared = InputQuantizer([a, 8] if a else [8], signed=signed, quantizer="gaussian+pact")
    made.quantize([w, 8], "gaussian+pact", shared)
    made.activate_bits(w, a)
    with torch.no_grad():
        for b in shared.by_bits:
            shared.clip(int(b)).fill_(clip)
    return made


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("w", "a"), [(1, 1), (1, 2), (2, 4), (3, 8), (5, 3), (8, 8), (None, 4), (4, None)])
def test_layer_computes_the_same_and_has_the_bits(w: int | None, a: int | None, signed: bool) -> None:
    layer = switch(nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), w, a, signed=signed)
    layer.activate_channels(3, 4)
    made = StaticMaker().layer(layer)
    assert type(made) is qnn.QuantConv2d
    assert (made.in_channels, made.out_channels, made.groups, made.stride) == (3, 4, 1, (2, 2))
    assert read_bits(made) == (w, a)
    assert read_signed(made) == (None if a is None else signed)
    assert is_quant_layer(made)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(made(x), layer(x))
    assert made(x).any()
    assert type(made(x)) is Tensor


def test_float_candidates_stay_brevitas_and_kept_layers_are_plain() -> None:
    searchable = switch(nn.Linear(4, 3), None, None)
    made = StaticMaker().layer(searchable)
    assert type(made) is qnn.QuantLinear
    assert is_quant_layer(made)
    assert read_bits(made) == (None, None)
    assert read_signed(made) is None
    kept = SwitchLayer(nn.Linear(4, 3, bias=False))
    plain = StaticMaker().layer(kept)
    assert type(plain) is nn.Linear
    assert plain.bias is None
    assert not is_quant_layer(plain)
    assert read_bits(plain) == (None, None)
    assert read_signed(plain) is None
    x = torch.randn(2, 4)
    assert torch.equal(made(x), searchable(x))
    assert torch.equal(plain(x), kept(x))


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_of_stock_layers(bits: int) -> None:
    layer = qnn.QuantLinear(4, 3, bias=True, weight_quant=gaussian(bits), input_quant=pact(9 - bits, True))
    assert read_bits(layer) == (bits, 9 - bits)
    assert read_signed(layer) is True
    assert read_bits(qnn.QuantReLU()) == (None, None)


def test_weights_are_copied() -> None:
    layer = switch(nn.Conv2d(2, 3, 1), 4, 4)
    made = StaticMaker().layer(layer)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


def test_layers_that_shared_a_quantizer_still_do_with_its_clip() -> None:
    """Brevitas re-creates a quantizer's parameters when a second layer is added to it: the clip must survive that."""
    first, second = switch(nn.Conv2d(4, 4, 1), 4, 2, clip=0.9), switch(nn.Conv2d(4, 4, 3), 2, 2)
    second.input_quant = first.input_quant
    maker = StaticMaker()
    a, b = maker.layer(first), maker.layer(second)
    assert a.input_quant is b.input_quant
    assert b.input_quant.tracked_module_list == [a, b]
    (clip,) = b.input_quant.parameters()
    assert float(clip.detach()) == pytest.approx(0.9)
    x = torch.rand(2, 4, 5, 5) * 2
    assert torch.equal(a(x), first(x))
    assert torch.equal(b(x), second(x))
    other = StaticMaker().layer(first)
    assert other.input_quant is not a.input_quant

    # The plain pair survives a copy and a state dict with the clip still shared.
    pair = nn.ModuleList([a, b])
    twin = copy.deepcopy(pair)
    assert twin[0].input_quant is twin[1].input_quant
    with torch.no_grad():
        next(twin[0].input_quant.parameters()).fill_(5.0)
    twin.load_state_dict(pair.state_dict())
    assert torch.equal(twin[1](x), second(x))


class Body(nn.Module):
    """A container with a parameter, a buffer and plain attributes of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = switch(nn.Conv2d(2, 2, 3, padding=1), 2, 4)
        self.again = self.conv
        self.inner = nn.Sequential(SwitchBatchNorm2d(2), nn.ReLU())
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("shift", torch.tensor([0.5]))
        self.names = ["a"]
        self.order = [self.conv, self.inner[0]]
        self.absent: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(self.again(self.conv(x))) * self.scale + self.shift
        return y


def test_containers_share_nothing_with_their_plain_counterpart() -> None:
    body = Body()
    calls: list[nn.Module] = []
    made = StaticMaker().module(body)
    made.register_forward_hook(lambda module, _x, _y: calls.append(module))
    x = torch.rand(2, 2, 4, 4)
    made.eval()
    assert body.training
    assert body.inner.training
    body.eval()
    y = body(x)
    assert calls == [], "a hook on the plain network fired on the supernet's"
    assert torch.equal(made(x), y)
    assert calls == [made]
    assert type(made.conv) is qnn.QuantConv2d
    assert made.again is made.conv
    assert made.order == [made.conv, made.inner[0]]
    assert type(made.inner[0]) is nn.BatchNorm2d
    ours = {id(t) for m in body.modules() for t in (*m.parameters(False), *m.buffers(False))}
    theirs = {id(t) for m in made.modules() for t in (*m.parameters(False), *m.buffers(False))}
    assert not ours & theirs
    with torch.no_grad():
        made.scale.add_(1)
        made.shift.add_(1)
    made.names.append("b")
    made.add_module("later", nn.ReLU())
    assert body.names == ["a"]
    assert "later" not in dict(body.named_children())
    assert torch.equal(body(x), y)


def test_modules_with_their_own_static_method() -> None:
    class Own(Switchable):
        def static(self, maker: StaticMaker) -> nn.Module:
            assert isinstance(maker, StaticMaker)
            return nn.Flatten()

    assert isinstance(StaticMaker().module(nn.Sequential(Own()))[0], nn.Flatten)


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_and_type_are_kept(training: bool) -> None:
    layer = switch(nn.Conv2d(2, 2, 1), 4, 4).double().train(training)
    made = StaticMaker().layer(layer)
    assert made.training is training
    assert {p.dtype for p in made.parameters()} == {torch.float64}
    x = torch.rand(2, 2, 3, 3, dtype=torch.float64)
    assert torch.equal(made(x), layer(x))


@pytest.mark.parametrize("active", [6, 2])
def test_batch_norm(active: int) -> None:
    norm = SwitchBatchNorm2d(6)
    norm.momentum, norm.eps = 0.3, 1e-3
    norm.activate_channels(active)
    norm(torch.randn(4, active, 3, 3))
    made = static_batch_norm(norm)
    assert (made.num_features, made.momentum, made.eps, made.training) == (active, 0.3, 1e-3, True)
    x = torch.randn(4, active, 3, 3)
    assert torch.equal(made(x), norm(x))
    assert torch.equal(made.running_var, norm.running_var[:active])
    assert torch.equal(made.eval()(x), norm.eval()(x))
    assert not static_batch_norm(norm).training
