"""Learned scales and codes without a zero against formulas written out in plain torch and stock Brevitas."""

from __future__ import annotations

import copy
from math import sqrt

import brevitas.nn as qnn
import pytest
import torch
from torch import Tensor, nn

from spos_quant.quant import kernels, scales
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.quantizers import gaussian, lsq, lsq_midrise, midrise
from spos_quant.quant.scales import LearnedScale
from spos_quant.quant.static import StaticMaker, read_bits
from spos_quant.quant.switch import SwitchLayer

LEARNED = {"lsq": (lsq, gaussian), "lsq-midrise": (lsq_midrise, midrise)}
SLICES = [
    (nn.Conv2d(6, 8, 3, groups=2), 3, 4),
    (nn.ConvTranspose2d(6, 8, 3), 4, 5),
    (nn.Linear(6, 8), 3, 5),
    (nn.Conv2d(8, 8, 3, groups=8), 4, 4),
]


def switchable(layer: nn.Module, bits: list[int], name: str) -> SwitchLayer:
    made = SwitchLayer(copy.deepcopy(layer))
    made.quantize(bits, f"{name}+pact")
    return made


def scale_of(layer: SwitchLayer, bits: int) -> LearnedScale:
    (found,) = (m for m in layer.weight_quant[str(bits)].modules() if isinstance(m, LearnedScale))
    return found


def fake_quant(w: Tensor, scale: Tensor, bits: int, *, odd: bool) -> Tensor:
    """LSQ's formulas by hand: the gradient of the scale, before its factor, is code - w / scale, or the bound."""
    if bits == 1:
        return (
            w
            + (torch.where(w >= 0, 1.0, -1.0) * scale - w).detach()
            + torch.where(w >= 0, 1.0, -1.0) * (scale - scale.detach())
        )
    qmax = 2**bits - 1 if odd else 2 ** (bits - 1) - 1
    ratio = w / scale
    codes = (ratio / 2).floor() * 2 + 1 if odd else ratio.round()
    inside = ratio + (codes - ratio).detach()
    return torch.where(codes.abs() > qmax, qmax * codes.sign(), inside) * scale


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("name", LEARNED)
def test_learned_scales_are_those_of_the_paper(name: str, bits: int) -> None:
    layer = switchable(nn.Conv2d(3, 5, 3), [bits], name)
    learned = scale_of(layer, bits)
    odd = name == "lsq-midrise" and bits == 2
    with torch.no_grad():
        learned.value.mul_(torch.linspace(0.4, 1.6, 5))
    g = torch.randn(5, 3, 3, 3)
    ours = layer.weight_quant[str(bits)](layer.weight)
    (ours * g).sum().backward()

    w = layer.weight.detach().clone().requires_grad_()
    scale = learned.value.detach().clone().requires_grad_()
    by_hand = fake_quant(w, scale.view(-1, 1, 1, 1), bits, odd=odd)
    (by_hand * g).sum().backward()
    qmax = 2**bits - 1 if odd else max(1, 2 ** (bits - 1) - 1)
    torch.testing.assert_close(ours, by_hand, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(learned.value.grad, scale.grad / sqrt(27 * qmax), rtol=1e-4, atol=1e-4)
    if bits > 1:
        torch.testing.assert_close(layer.weight.grad, w.grad, rtol=1e-4, atol=1e-5)
    assert len(ours.detach()[0].unique()) <= 2**bits


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("layer", [layer for layer, _, _ in SLICES], ids=str)
def test_learned_scales_are_initialized_from_the_statistics(layer: nn.Module, name: str, bits: int) -> None:
    learned, start = (switchable(layer, [bits], n) for n in (name, "midrise" if name == "lsq-midrise" else "gaussian"))
    for _ in range(2):
        ours, theirs = (x.weight_quant[str(bits)](x.weight) for x in (learned, start))
        assert torch.equal(ours, theirs)
        with torch.no_grad():
            learned.weight.mul_(torch.rand_like(learned.weight) * 3)
            start.weight.copy_(learned.weight)
        ours, theirs = (x.weight_quant[str(bits)](x.weight) for x in (learned, start))
        assert not torch.equal(ours, theirs)
        scale_of(learned, bits).start(learned.weight)


@pytest.mark.parametrize("name", [*LEARNED, "midrise"])
@pytest.mark.parametrize(("layer", "i", "o"), SLICES, ids=str)
def test_a_slice_is_the_plain_layer_and_nothing_else_gets_a_gradient(
    layer: nn.Module, i: int, o: int, name: str
) -> None:
    made = switchable(layer, list(range(1, 9)), name)
    made.activate_channels(i, o)
    x = torch.rand(2, i) if isinstance(layer, nn.Linear) else torch.rand(2, i, 5, 5)
    for bits in range(1, 9):
        made.activate_bits(bits, None)
        for parameter in made.weight_quant[str(bits)].parameters():
            parameter.data.mul_(1 + torch.rand_like(parameter))
        plain = StaticMaker().layer(made)
        assert read_bits(plain) == (bits, None)
        made.zero_grad()
        y, y_plain = made(x), plain(x)
        assert torch.equal(y, y_plain)
        y.square().sum().backward()
        y_plain.square().sum().backward()
        learned = zip(made.weight_quant[str(bits)].parameters(), plain.weight_quant.parameters(), strict=True)
        for whole, own in learned:
            assert torch.equal(whole.grad[:o], own.grad)
            assert own.grad.all()
            assert not whole.grad[o:].any()
        for other in range(1, 9):
            if other != bits:
                assert all(p.grad is None for p in made.weight_quant[str(other)].parameters())


def test_one_value_per_channel_and_bit_width_of_one_dimension() -> None:
    made = switchable(nn.Conv2d(6, 8, 3), [1, 2, 8], "lsq")
    learned = {n: p for n, p in made.named_parameters() if n not in ("weight", "bias")}
    assert [p.shape for p in learned.values()] == [(8,)] * 3
    assert set(made.state_dict()) == {"weight", "bias", *learned}


def test_copies_and_state_dicts_keep_the_scales() -> None:
    made = switchable(nn.Conv2d(6, 8, 3), [2, 4], "lsq")
    with torch.no_grad():
        scale_of(made, 4).value.mul_(1.3)
    made.activate_bits(4, None)
    x = torch.randn(1, 6, 5, 5)
    twin, other = copy.deepcopy(made), switchable(nn.Conv2d(6, 8, 3), [2, 4], "lsq")
    assert torch.equal(twin(x), made(x))
    other.load_state_dict(made.state_dict())
    other.activate_bits(4, None)
    assert torch.equal(other(x), made(x))
    before = made(x)
    with torch.no_grad():
        scale_of(twin, 4).value.mul_(2)
    assert torch.equal(made(x), before)
    # The plain layer loads a state dict too.
    plain = StaticMaker().layer(made)
    again = qnn.QuantConv2d(6, 8, 3, weight_quant=lsq(4))
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again(x), plain(x))


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30])
def test_degenerate_scales_stay_finite(value: float) -> None:
    made = switchable(nn.Conv2d(2, 3, 3), [2], "lsq")
    with torch.no_grad():
        scale_of(made, 2).value.fill_(value)
    y = made.weight_quant["2"](made.weight)
    y.sum().backward()
    assert y.isfinite().all()
    assert scale_of(made, 2).value.grad.isfinite().all()
    assert made.weight.grad.isfinite().all()


def test_midrise_uses_all_four_levels_with_the_least_error() -> None:
    """Max 1960: a distance of 0.9957 standard deviations has an error of 0.1188 variances, three levels 0.1902."""
    w = torch.randn(8, 16384, 1, 1) * torch.tensor([0.01, 3.0] * 4).view(8, 1, 1, 1)
    layers = {name: qnn.QuantConv2d(16384, 8, 1, weight_quant=make(2)) for name, make in
              (("midrise", midrise), ("gaussian", gaussian))}  # fmt: skip
    errors = {}
    for name, layer in layers.items():
        with torch.no_grad():
            layer.weight.copy_(w)
            quantized = layer.quant_weight()
            errors[name] = float(((quantized.value - w).square().mean((1, 2, 3)) / w.var((1, 2, 3))).mean())
    assert errors["midrise"] == pytest.approx(0.1188, rel=0.02)
    assert errors["gaussian"] == pytest.approx(0.1902, rel=0.02)
    with torch.no_grad():
        made = layers["midrise"].quant_weight()
    torch.testing.assert_close(2 * made.scale.flatten() / w.std((1, 2, 3)), torch.full((8,), 0.9957), rtol=0.02, atol=0)
    assert (made.value / made.scale).round().unique().tolist() == [-3, -1, 1, 3]
    assert int(made.bit_width) == 2
    # Rounding boundaries are 0 and twice the scale on either side.
    cells = torch.where(w.abs() < 2 * made.scale, 1.0, 3.0) * torch.where(w >= 0, 1.0, -1.0)
    assert torch.equal((made.value / made.scale).round(), cells)


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 8])
def test_other_bit_widths_of_midrise_are_those_of_gaussian(bits: int) -> None:
    ours, theirs = (switchable(SLICES[0][0], [bits], name) for name in ("midrise", "gaussian"))
    assert torch.equal(*(x.weight_quant[str(bits)](x.weight) for x in (ours, theirs)))


@pytest.mark.parametrize("spread", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("shape", [(7, 2), (64, 27), (64, 576), (20, 4608)])
def test_the_compiled_variance_equals_torchs(shape: tuple[int, int], spread: float) -> None:
    """To the last bit of float32, since both sum in float64; a row of equal weights has variance 0."""
    torch.manual_seed(0)
    magnitudes = (torch.randn(shape) * spread).abs()
    magnitudes[-1] = 0.3 * spread
    found = kernels._row_variances(magnitudes)
    assert torch.equal(found, torch.var(magnitudes, 1, keepdim=True))
    assert found[-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("per_row", [9, 64, 144])
def test_scales_of_weights_with_few_digits(dtype: torch.dtype, per_row: int) -> None:
    """Sums of such numbers are ties between two float32 so often that another order would show in short rows."""
    torch.manual_seed(0)
    weight = torch.randn(4_000, per_row).to(dtype).float()
    made = qnn.QuantLinear(per_row, 4_000, bias=False, weight_quant=gaussian(3))
    made.weight.data.copy_(weight)
    expected = made.quant_weight().value
    with compiled_kernels() as compiled:
        assert compiled
        assert torch.equal(made.quant_weight().value, expected)


@pytest.mark.slow
def test_layers_that_share_a_quantizer_share_its_statistics() -> None:
    torch.manual_seed(0)
    first = qnn.QuantConv2d(16, 32, 3, bias=False, weight_quant=gaussian(3))
    second = qnn.QuantConv2d(16, 32, 3, bias=False, weight_quant=first.weight_quant)
    with torch.no_grad():
        second.weight.mul_(4)
    expected = first.quant_weight().value
    with compiled_kernels() as compiled:
        assert compiled
        assert torch.equal(first.quant_weight().value, expected)


@pytest.mark.parametrize(
    ("layer", "scale_shape"),
    [
        (nn.Conv2d(4, 6, 3), (6, 1, 1, 1)),
        (nn.ConvTranspose2d(4, 6, 3), (1, 6, 1, 1)),
        (nn.Conv2d(6, 6, 3, groups=6), (-1, 1, 1, 1)),
        (nn.Linear(5, 3), (3, 1)),
    ],
)
def test_first_and_second_derivatives_of_statistics(layer: nn.Module, scale_shape: tuple[int, ...]) -> None:
    """The clips of a weight as one operation: first and second derivatives against numerical ones."""
    torch.manual_seed(0)
    weight = layer.weight.detach().double().requires_grad_()
    sigma = torch.tensor(0.7, dtype=torch.float64)

    def clip(w: Tensor) -> Tensor:
        return scales._MeanSigmaStd.apply(w, scale_shape, sigma, 1e-8)

    magnitudes = weight.detach().transpose(0, next(i for i, n in enumerate(scale_shape) if n != 1)).flatten(1).abs()
    expected = magnitudes.mean(1) + sigma * (magnitudes.var(1) + 1e-8).sqrt()
    torch.testing.assert_close(clip(weight).flatten(), expected)
    torch.autograd.gradcheck(clip, weight)
    torch.autograd.gradgradcheck(clip, weight)
