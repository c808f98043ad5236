"""ReLUs left to the quantizers behind them, whose lowest level is zero anyway: two passes over memory less per step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import Tensor, nn

from spos_quant.quant.fused import FusedIntQuant
from spos_quant.quant.switch import SwitchLayer


@contextmanager
def absorbed_relus(pairs: Iterable[tuple[nn.ReLU, nn.Module]]) -> Iterator[None]:
    """While open, ReLUs pass on what they get wherever the layer behind quantizes to levels from zero up.

    Values and gradients are those of both, to the last bit.

    Args:
        pairs: ReLUs, each with the layer that alone reads what it gives.
    """
    found = [(relu, layer, quantizers) for relu, layer in pairs if (quantizers := _from_zero(layer))]
    for relu, layer, quantizers in found:
        relu.forward = _as_it_is  # type: ignore[assignment, method-assign]
        for quantizer in quantizers:
            quantizer.rectifies = True
        if isinstance(layer, SwitchLayer):
            layer.rectifies = True
    try:
        yield
    finally:
        for relu, layer, quantizers in found:
            del relu.forward  # the class has it
            for quantizer in quantizers:
                quantizer.rectifies = False
            if isinstance(layer, SwitchLayer):
                layer.rectifies = False


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _from_zero(layer: nn.Module) -> list[FusedIntQuant]:
    """The quantizers of a layer's input, if all of them have zero as their lowest level; none otherwise."""
    proxies: list[Any] = []
    if isinstance(layer, SwitchLayer) and layer.input_quant is not None:
        proxies = list(layer.input_quant.by_bits.values())
    elif isinstance(layer, QuantLayer) and layer.input_quant.is_quant_enabled:
        proxies = [layer.input_quant]
    made = [getattr(proxy.fused_activation_quant_proxy.tensor_quant, "int_quant", None) for proxy in proxies]
    fused = [quantizer for quantizer in made if isinstance(quantizer, FusedIntQuant) and not quantizer.signed]
    return fused if len(fused) == len(made) else []
