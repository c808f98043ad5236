"""Convolutions of integer codes against the same layer in fake quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from spos_quant.quant import integers
from spos_quant.quant.fused_quant import integer_codes
from spos_quant.quant.integers import integer_convolution, integers_available
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.switch import InputQuantizer, SwitchBatchNorm2d, SwitchLayer, cached_weights, fused_norms

needs_vnni = pytest.mark.skipif(not integers_available(), reason="needs VNNI and oneDNN")
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "3x3": lambda: nn.Conv2d(8, 12, 3, padding=1, bias=False),
    "bias": lambda: nn.Conv2d(8, 12, 3),
    "strided 1x1": lambda: nn.Conv2d(8, 5, 1, stride=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "grouped, dilated": lambda: nn.Conv2d(8, 4, 3, padding=(2, 1), dilation=2, groups=2),
    "oblong": lambda: nn.Conv2d(8, 6, (1, 5), stride=(1, 2), padding=(0, 2)),
}


def layer_of(kind: str, weight_bits: int, act_bits: int, signed: bool, quantizer: str = "midrise+pact") -> SwitchLayer:
    torch.manual_seed(0)
    made = SwitchLayer(LAYERS[kind](), signed=signed)
    inputs = InputQuantizer([act_bits], signed=signed, quantizer=quantizer)
    made.quantize([weight_bits], quantizer, inputs)
    inputs.clip(act_bits).data.fill_(1.3)
    made.activate_bits(weight_bits, act_bits)
    return made


def images(signed: bool, side: int = 9) -> Tensor:
    x = torch.randn(3, 8, side, side, generator=torch.Generator().manual_seed(1))
    return (x if signed else x.relu()).to(memory_format=torch.channels_last)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Records for each call whether integers were summed."""
    calls: list[bool] = []

    def watched(layer: SwitchLayer, x: Tensor) -> Tensor | None:
        made = integer_convolution(layer, x)
        calls.append(made is not None)
        return made

    with monkeypatch.context() as patch:
        patch.setattr("spos_quant.quant.switch.integer_convolution", watched)
        yield calls


@needs_vnni
@torch.no_grad()
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("act_bits", [1, 2, 4, 8])
@pytest.mark.parametrize("weight_bits", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", LAYERS)
def test_sums_are_those_of_fake_quantization(
    monkeypatch: pytest.MonkeyPatch, kind: str, weight_bits: int, act_bits: int, signed: bool
) -> None:
    layer, x = layer_of(kind, weight_bits, act_bits, signed), images(signed)
    expected = layer(x)
    with counted(monkeypatch) as calls, cached_weights([layer], integers=True):
        made = layer(x)
    assert calls == [not (signed and act_bits == 1)]  # signed 1 bit has no zero, so no integer codes
    torch.testing.assert_close(made, expected, rtol=2e-6, atol=2e-6 * float(expected.abs().max()))


@needs_vnni
@torch.no_grad()
def test_slices_and_other_shapes_are_packed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of("bias", 4, 4, signed=False)
    with counted(monkeypatch) as calls, cached_weights([layer], integers=True):
        for inputs, outputs, side in ((8, 12, 9), (4, 6, 9), (8, 3, 7), (8, 12, 9)):
            layer.activate_channels(inputs, outputs)
            x = images(signed=False, side=side)[:, :inputs]
            made = layer(x)
            layer.integers = False
            torch.testing.assert_close(made, layer(x), rtol=1e-5, atol=1e-5)
            layer.integers = True
    assert calls == [True] * 4


@needs_vnni
@torch.no_grad()
@pytest.mark.parametrize("weight_bits", [4, None])
@pytest.mark.parametrize("kind", ["3x3", "bias"])
def test_a_layer_applies_an_absorbed_norm(kind: str, weight_bits: int | None) -> None:
    """In its scales if it sums integers, else after its float sums."""
    layer, x = layer_of(kind, 4, 4, signed=False), images(signed=False)
    layer.activate_bits(weight_bits, 4)
    layer.activate_channels(8, 7)
    norm = SwitchBatchNorm2d(12).eval()
    norm.activate_channels(7)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 2)
    expected = norm(layer(x))
    with cached_weights([layer], integers=True), fused_norms([(layer, norm)]):
        y = layer(x)
        assert norm(y) is y
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(norm(layer(x)), expected)
    assert "norm" not in dict(layer.named_modules())


@needs_vnni
@torch.no_grad()
def test_nothing_is_kept_after_the_weights_may_have_changed() -> None:
    layer, x = layer_of("3x3", 4, 4, signed=False), images(signed=False)
    with cached_weights([layer], integers=True):
        layer(x)
    layer.weight.mul_(-2)
    expected = layer(x)
    with cached_weights([layer], integers=True):
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@needs_vnni
@torch.no_grad()
@pytest.mark.parametrize("change", ["float weight", "float input", "double", "reflected border", "same padding"])
def test_what_has_no_kernel_is_computed_in_float(change: str) -> None:
    layer, x = layer_of("3x3", 4, 4, signed=False), images(signed=False)
    if change == "float weight":
        layer.activate_bits(None, 4)
    elif change == "float input":
        layer.activate_bits(4, None)
    elif change == "double":
        layer, x = layer.double(), x.double()
    else:
        border = {"padding_mode": "reflect"} if change == "reflected border" else {"padding": "same"}
        plain = nn.Conv2d(8, 12, 3, bias=False, **({"padding": 1} | border))  # type: ignore[arg-type]
        other = SwitchLayer(plain)
        other.quantize([4], "midrise+pact", layer.input_quant)
        other.activate_bits(4, 4)
        layer = other
    expected = layer(x)
    with cached_weights([layer], integers=True):
        assert integer_convolution(layer, x) is None
        assert torch.equal(layer(x), expected)


@needs_vnni
def test_gradients_are_those_of_fake_quantization() -> None:
    layer, x = layer_of("3x3", 4, 4, signed=False), images(signed=False)
    with cached_weights([layer], integers=True):
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_codes_are_the_levels_of_the_quantizer(bits: int, signed: bool, compiled: bool) -> None:
    quantizer = InputQuantizer([bits], signed=signed, quantizer="midrise+pact")
    quantizer.clip(bits).fill_(1.7)
    x = torch.randn(4, 5, 17, 19).to(memory_format=torch.channels_last)
    x = x if signed else x.abs()
    levels = quantizer.levels(bits)
    assert levels is not None
    with compiled_kernels(compiled):
        codes = integer_codes(x, *levels)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) == 2**bits - 1
    assert torch.equal((codes.float() + levels.qmin) * levels.step, quantizer(x, bits))


def test_operators_of_another_torch_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: object) -> Tensor:
        raise RuntimeError("onednn::qconv_prepack() is missing value for argument 'x_shape'")

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr(integers, "_pack", other)
    assert integers_available.__wrapped__() is False


def test_a_processor_without_vnni_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert integers_available.__wrapped__() is False
