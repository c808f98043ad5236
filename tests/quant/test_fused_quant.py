"""The fused quantizer against stock Brevitas: every bit of the forward pass, every gradient."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import brevitas.nn as qnn
import pytest
import torch
from brevitas.core.quant.int_base import IntQuant
from brevitas.core.scaling import StatsFromParameterScaling
from torch import Tensor, nn

from spos_quant.quant import kernels
from spos_quant.quant.fused_quant import FusedIntQuant
from spos_quant.quant.kernels import COMPILE_SECONDS, compiled_kernels
from spos_quant.quant.quantizers import absmax, gaussian, pact
from spos_quant.quant.scales import StatisticalScale

LAYERS = {
    "conv": (lambda **q: qnn.QuantConv2d(6, 8, 3, padding=1, **q), (5, 6, 7, 7)),
    "depthwise": (lambda **q: qnn.QuantConv2d(6, 6, 3, groups=6, **q), (2, 6, 5, 3)),
    "grouped": (lambda **q: qnn.QuantConv2d(6, 4, 1, groups=2, **q), (1, 6, 1, 1)),
    "one channel": (lambda **q: qnn.QuantConv2d(6, 1, 3, **q), (3, 6, 4, 4)),
    "audio": (lambda **q: qnn.QuantConv1d(6, 5, 3, **q), (3, 6, 9)),
    "transposed": (lambda **q: qnn.QuantConvTranspose2d(6, 4, 2, 2, **q), (2, 6, 3, 3)),
    "transposed 1x1": (lambda **q: qnn.QuantConvTranspose2d(6, 4, 1, **q), (2, 6, 3, 3)),
    "linear": (lambda **q: qnn.QuantLinear(6, 3, **q), (11, 6)),
}


def pair(kind: str, bits: int, signed: bool, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, Tensor]:
    """A fused layer, a stock one with the same numbers, and an input with values beyond the clip."""
    made = []
    for int_quant, scaling in ((FusedIntQuant, StatisticalScale), (IntQuant, StatsFromParameterScaling)):
        torch.manual_seed(0)
        make, shape = LAYERS[kind]
        weight = gaussian(bits).let(int_quant=int_quant, scaling_impl=scaling)
        act = pact(bits, signed).let(int_quant=int_quant, max_val=1.0)
        made.append(make(weight_quant=weight, input_quant=act, bias=True).to(dtype))
    assert type(made[0].weight_quant.tensor_quant.int_quant) is FusedIntQuant
    assert type(made[1].weight_quant.tensor_quant.int_quant) is IntQuant
    x = torch.randn(shape, dtype=dtype)
    return made[0], made[1], x if signed else x.abs()


def gradients(layer: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)).sum().backward()
    found = [x.grad, *(p.grad for p in layer.parameters())]
    assert all(g is not None for g in found)
    return y, found


@pytest.fixture(scope="module")
def compiled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, compiled_kernels() as made:
        patch.setattr(kernels, "_SIZES", range(1, 2**31))
        assert made, "the compiler failed; see stderr"
        yield


def check(kind: str, bits: int, signed: bool) -> None:
    fused, stock, x = pair(kind, bits, signed)
    for memory in (torch.contiguous_format, torch.channels_last) if x.dim() == 4 else (torch.contiguous_format,):
        for layer in (fused, stock):
            layer.zero_grad()
            if x.dim() == 4:
                layer.to(memory_format=memory)
        (y, ours), (expected, theirs) = (
            gradients(layer, x.contiguous(memory_format=memory)) for layer in (fused, stock)
        )
        assert torch.equal(y, expected)
        assert torch.equal(ours[0], theirs[0]), "the gradient of the input"
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", LAYERS)
def test_equal_to_stock(kind: str, bits: int, signed: bool) -> None:
    check(kind, bits, signed)


@pytest.mark.slow
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_is_equal_to_stock(compiled: None, kind: str, bits: int, signed: bool) -> None:
    check(kind, bits, signed)


@pytest.mark.slow
def test_compiled_kernels_take_every_kind_of_tensor(compiled: None) -> None:
    """Any size, memory alignment, number of threads and autograd mode, without another compilation."""
    threads, frames = torch.get_num_threads(), torch._dynamo.utils.counters["frames"]["total"]
    scale, qmin, qmax = torch.tensor(0.3), torch.tensor(-4.0), torch.tensor(3.0)
    try:
        for count, size in ((1, 4_096), (2, 5_001), (2, 70_000)):
            torch.set_num_threads(count)
            x = torch.randn(size + 1)[1:]
            for tensor in (x, x.requires_grad_(), x.detach().clone().mul(2)):
                with torch.inference_mode(not tensor.requires_grad):
                    made = kernels.active(tensor).flat(tensor, scale, qmin, qmax)
                assert torch.equal(made, kernels.quantized(tensor.detach(), scale, qmin, qmax))
            rows, scales = x.detach()[:4_095].reshape(65, 63), torch.rand(65, 1) + 0.1
            with torch.inference_mode():
                made = kernels.active(x).rows(rows, scales, qmin, qmax)
            assert torch.equal(made, kernels.quantized(rows, scales, qmin, qmax))
    finally:
        torch.set_num_threads(threads)
    assert torch._dynamo.utils.counters["frames"]["total"] == frames


@pytest.mark.slow
def test_kernels_are_compiled_once(compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_made", {})
    folder = kernels.cache_dir("kernels", kernels._key("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(kernels.subprocess, "run", None)  # another process loads them
        with compiled_kernels() as made:
            assert made
    kernels._made.clear()
    (folder / "flat.bin").write_bytes((folder / "flat.bin").read_bytes()[:1000])
    with compiled_kernels() as made:  # a damaged file is compiled again
        assert made
        check("conv", 4, False)


@pytest.mark.parametrize("through", [False, True], ids=["activations", "weights"])
def test_gradients_by_differences(through: bool) -> None:
    """Between the jumps of rounding, finite differences give the gradient of `level x scale`; `x` has the mask."""
    torch.manual_seed(0)
    quant = (absmax(4) if through else pact(4, True)).let(int_quant=FusedIntQuant)
    layer = qnn.QuantLinear(8, 4, bias=False, **{"weight_quant" if through else "input_quant": quant}).double()
    int_quant = (
        layer.weight_quant.tensor_quant if through else layer.input_quant.fused_activation_quant_proxy.tensor_quant
    ).int_quant
    x = torch.randn(40, dtype=torch.float64) * 4
    scale = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    bits, zero = torch.tensor(4.0), torch.tensor(0.0)
    given = x.clone().requires_grad_()
    upstream = torch.randn(40, dtype=torch.float64)
    (int_quant(scale, zero, bits, given) * upstream).sum().backward()
    level = (int_quant(scale, zero, bits, x) / scale).detach().round()
    inside = (level == (x / scale.detach()).round()) | through
    assert torch.equal(given.grad, torch.where(inside, upstream * scale.detach() / scale.detach(), 0.0))
    expected = (upstream * torch.where(inside, level - x / scale.detach(), level)).sum()
    torch.testing.assert_close(scale.grad, expected)
    h = 1e-7
    moved = [int_quant(scale.detach() + d, zero, bits, x) * upstream for d in (h, -h)]
    slope = (moved[0] - moved[1]).sum() / (2 * h)
    torch.testing.assert_close(slope, (upstream * level).sum(), rtol=1e-6, atol=1e-6)


def test_second_derivatives_are_those_of_stock() -> None:
    fused, stock, x = pair("linear", 4, False)
    found = []
    for layer in (fused, stock):
        loss = layer(x).square().sum()
        (first,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [layer.weight, *layer.input_quant.parameters()]))
    for a, b in zip(*found, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b)


def test_bfloat16_is_that_of_stock() -> None:
    fused, stock, x = pair("conv", 4, False, torch.bfloat16)
    (y, ours), (expected, theirs) = gradients(fused, x), gradients(stock, x)
    assert torch.equal(y, expected)
    assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.TimeoutExpired("x", 1), f"compilation takes more than {COMPILE_SECONDS:.0f} s"),
        (subprocess.CalledProcessError(1, "x", stderr=b"...\nNo C++ compiler\n"), "No C\\+\\+ compiler"),
    ],
)
def test_without_a_compiler_everything_runs(monkeypatch, capsys, tmp_path, error: Exception, reason: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(kernels, "_made", {})
    monkeypatch.setattr(kernels, "_active", kernels.EAGER)  # whatever other tests of this file compiled
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels.subprocess, "run", fail)
    with compiled_kernels() as made:
        assert not made
        check("conv", 4, False)
    assert "runs uncompiled, which is slower: " in capsys.readouterr().err
    with compiled_kernels(False) as made:
        assert not made


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", LAYERS)
def test_cuda(kind: str) -> None:
    fused, stock, x = pair(kind, 4, False)
    with compiled_kernels(device="cuda") as made:
        assert made, "the compiler failed; see stderr"
        (y, ours), (expected, theirs) = (gradients(layer.cuda(), x.cuda()) for layer in (fused, stock))
    assert torch.equal(y, expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
