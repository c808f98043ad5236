"""Quantizers return plain values during training, and nothing in them synchronizes a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from brevitas import nn as qnn
from brevitas.quant import Int8Bias
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spos_quant.quant.quantizers import quantizer_pair
from spos_quant.quant.static import StaticMaker, plain_tensors
from spos_quant.quant.switch import InputQuantizer, SwitchLayer

WAITS = ("_local_scalar_dense", "lift_fresh", "is_nonzero")
"""Operations that read a tensor's value, or make a tensor from a Python value."""


class Waiting(TorchDispatchMode):
    """Collects those operations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += [name for name in WAITS if name in str(func)]
        return func(*args, **(kwargs or {}))


def switchable(bits: int, quantizer: str) -> SwitchLayer:
    layer = SwitchLayer(nn.Conv2d(4, 6, 3, bias=False))
    layer.quantize([bits], quantizer, InputQuantizer([bits], signed=False, quantizer=quantizer))
    layer.activate_bits(bits, bits)
    return layer


def step(layer: nn.Module) -> Tensor:
    y: Tensor = layer(torch.rand(2, 4, 6, 6))
    y.square().sum().backward()
    return y


@pytest.mark.parametrize("quantizer", ["gaussian+pact", "midrise+pact", "lsq+pact", "absmax+pact"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_no_training_step_waits_for_a_value(bits: int, quantizer: str) -> None:
    layer = switchable(bits, quantizer)
    plain = StaticMaker().layer(layer)
    for module in (layer, plain):
        with plain_tensors(module):
            step(module)  # tensors that are created only once are created here
            with Waiting() as waiting:
                step(module)
        assert waiting.found == []


def test_plain_values_equal_quantized_tensors_which_are_restored() -> None:
    layer = StaticMaker().layer(switchable(4, "gaussian+pact"))
    x = torch.rand(2, 4, 6, 6)
    with pytest.raises(RuntimeError), plain_tensors(layer):
        assert not isinstance(layer.quant_weight(), QuantTensor)
        inner = layer(x)
        raise RuntimeError
    assert isinstance(layer.quant_weight(), QuantTensor)
    assert torch.equal(layer(x), inner)


@pytest.mark.parametrize("asks", ["return_quant_tensor", "bias_quant"])
def test_layers_that_need_scales_keep_them(asks: str) -> None:
    weights, acts = quantizer_pair("gaussian+pact")
    more: dict[str, Any] = {"return_quant_tensor": True}
    if asks == "bias_quant":
        more = {"bias_quant": Int8Bias, "bias": True}
    layer = qnn.QuantConv2d(4, 6, 3, weight_quant=weights(4), input_quant=acts(4, False), **more)
    x = torch.rand(2, 4, 6, 6)
    expected = layer(x)
    with plain_tensors(layer):
        found = layer(x)
    values = [y.value if isinstance(y, QuantTensor) else y for y in (expected, found)]
    assert torch.equal(*values)
    assert type(found) is type(expected)
