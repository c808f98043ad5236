"""Every clip is initialized to the value of least squared error, over all tensors that its quantizer can read."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from train_cases import CLASSES, supernet

from spos_quant.backbones.build import build, space_of
from spos_quant.errors import ModelError
from spos_quant.quant.switch import InputQuantizer, SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.calibrate import calibrate_clips


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def signed_supernet():
    """The first layer quantized too: its input has a sign. Activation bits of all kinds."""
    raw = {
        "name": "signed",
        "backbone": "digits-resnet",
        "input": [1, 8, 8],
        "classes": CLASSES,
        "keep_float": [],
        "axes": {"op": ["conv3x3", "sepconv3x3"], "weight_bits": [2, 4], "act_bits": [1, 2, 3, 5, 8, None]},
    }
    return build(space_of(parse_spec(raw, "signed")))


def clips(quantizer: InputQuantizer) -> list[float]:
    return [float(quantizer.clip(bits).detach()) for bits in map(int, quantizer.by_bits)]


MAKE = {"small": supernet, "signed": signed_supernet}


def rounded(x: torch.Tensor, clip: torch.Tensor, bits: int, signed: bool) -> torch.Tensor:
    """The quantization of `quant.quantizers`, written out."""
    if signed and bits == 1:
        return torch.where(x >= 0, clip, -clip)
    if signed:
        scale = clip / 2 ** (bits - 1)
        return (x / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
    scale = clip / (2**bits - 1)
    return (x / scale).round().clamp(0, 2**bits - 1) * scale


def read_by(model) -> dict[InputQuantizer, torch.Tensor]:
    """All inputs of every quantizer: float passes per operator, at the largest width, with batch statistics."""
    of = model.space
    seen: dict[InputQuantizer, list[torch.Tensor]] = {}
    handles = []
    for layer in model.modules():
        if isinstance(layer, SwitchLayer) and layer.input_quant is not None:
            handles.append(
                layer.register_forward_pre_hook(
                    lambda m, x: seen.setdefault(m.input_quant, []).append(x[0].detach().flatten())
                )
            )
    model.train()
    with torch.no_grad():
        for turn in range(max(len(a.candidates) for a in of.axes if a.kind == "op")):
            picked = []
            for axis in of.axes:
                if axis.kind == "op":
                    picked.append(turn)
                elif axis.kind == "width":
                    picked.append(axis.candidates.index(max(axis.candidates)))
                else:
                    picked.append(0)
            model.activate(of.canonical(picked))
            model.activate_float()
            model(images())
    for handle in handles:
        handle.remove()
    return {q: torch.cat(values) for q, values in seen.items()}


@pytest.mark.parametrize("name", MAKE)
def test_every_clip_is_the_one_of_least_squared_error(name):
    model, reference = MAKE[name](), MAKE[name]()
    calibrate_clips(model, images())
    tensors = read_by(reference)
    pairs = list(zip(model.input_quantizers(), reference.input_quantizers(), strict=True))
    assert len(pairs) == len(tensors) > 8
    checked = set()
    for ours, theirs in pairs:
        values = tensors[theirs]
        peak = values.abs().max()
        for bits in map(int, ours.by_bits):
            grid = torch.linspace(0.1, 1.0, 46) * peak
            errors = torch.stack([(rounded(values, c, bits, ours.signed) - values).square().mean() for c in grid])
            clip = ours.clip(bits).detach()
            at = int((grid - clip).abs().argmin())
            assert abs(float(grid[at] - clip)) < 1e-4 * float(peak), "the clip is not on the grid"
            assert float(errors[at]) <= 1.001 * float(errors.min())
            assert float(errors[at]) < 0.95 * float(errors.max())
            checked.add((bits, ours.signed, at))
    assert len({at for _, _, at in checked}) > 6, "all clips are at the same few grid points"
    wanted = {"small": {(1, False), (2, False), (4, False)}, "signed": set(product((1, 2, 3, 5, 8), (False, True)))}
    assert {(bits, signed) for bits, signed, _ in checked} == wanted[name]


def test_more_bits_clip_less():
    model = signed_supernet()
    calibrate_clips(model, images(8))
    for quantizer in model.input_quantizers():
        if not quantizer.signed:
            ascending = clips(quantizer)[1:]  # not 1 bit: its only nonzero level is near most values
            assert ascending == sorted(ascending)
            assert ascending[0] < ascending[-1]


def test_nothing_else_changes():
    model = supernet()
    model.activate(model.space.canonical([min(1, len(a.candidates) - 1) for a in model.space.axes]))
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, SwitchBatchNorm2d):
                norm.running_mean.uniform_(-1, 1)
                norm.running_var.uniform_(0.5, 2)
    path, x = model.architecture, images(5)
    bits = {name: (m.weight_bits, m.act_bits) for name, m in model.named_modules() if isinstance(m, SwitchLayer)}
    before = {name: t.clone() for name, t in model.state_dict().items()}
    for training in (True, False):
        model.train(training)
        calibrate_clips(model, x)
        assert model.architecture == path
        assert all(m.training == training for m in model.modules())
    after = model.state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == ("input_quant" not in name), name
    assert bits == {n: (m.weight_bits, m.act_bits) for n, m in model.named_modules() if isinstance(m, SwitchLayer)}
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_running_statistics_have_no_effect():
    fresh, used = supernet(), supernet()
    with torch.no_grad():
        for norm in used.modules():
            if isinstance(norm, SwitchBatchNorm2d):
                norm.running_mean.fill_(1e6)
    for model in (fresh, used.eval()):
        calibrate_clips(model, images())
    for a, b in zip(fresh.input_quantizers(), used.input_quantizers(), strict=True):
        assert all(torch.equal(a.clip(bits), b.clip(bits)) for bits in map(int, a.by_bits))


def test_only_the_wanted_quantizers_are_set():
    model, whole = supernet(), supernet()
    start = {q: clips(q) for q in model.input_quantizers()}
    chosen = set(list(start)[::2])
    calibrate_clips(model, images(), chosen)
    calibrate_clips(whole, images())
    for q, reference in zip(start, whole.input_quantizers(), strict=True):
        now = clips(q)
        if q in chosen:
            assert now == clips(reference) != start[q]
        else:
            assert now == start[q]


def test_large_tensors_are_calibrated_on_a_sample_with_their_peak():
    model = supernet()
    x = torch.randn(80, 1, 8, 8)  # 16 channels: 81,920 values
    calibrate_clips(model, x)
    tensors = {}
    handles = [
        layer.register_forward_pre_hook(lambda m, v: tensors.setdefault(m.input_quant, v[0].detach()))
        for layer in (m for m in model.modules() if isinstance(m, SwitchLayer) and m.input_quant is not None)
    ]
    model.train()
    model.activate_float()
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    first = next(iter(tensors))
    values, bits = tensors[first].flatten(), 4
    assert len(values) > 4 * 16_384
    grid = torch.linspace(0.1, 1.0, 46) * values.max()
    errors = torch.stack([(rounded(values, c, bits, False) - values).square().mean() for c in grid])
    at = int((grid - first.clip(bits)).abs().argmin())
    assert abs(float(grid[at] - first.clip(bits).detach())) < 1e-4 * float(values.max())
    assert float(errors[at]) < 1.1 * float(errors.min())


def test_an_input_that_was_declared_never_negative():
    model = supernet()
    layer = next(m for m in model.modules() if isinstance(m, SwitchLayer) and m.input_quant is not None)
    before = model.architecture
    layer.register_forward_pre_hook(lambda m, x: (x[0] - 1.0,))
    with pytest.raises(ModelError, match="declared never negative is negative; declare the layer signed"):
        calibrate_clips(model.eval(), images())
    assert model.architecture == before
    assert not model.training


def test_a_tensor_of_zeros_keeps_the_initial_clip():
    model = supernet()
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, SwitchBatchNorm2d):
                nn.init.zeros_(m.weight)
    start = {q: clips(q) for q in model.input_quantizers()}
    calibrate_clips(model, images())
    assert start == {q: clips(q) for q in model.input_quantizers()}
