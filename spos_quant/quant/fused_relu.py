"""ReLUs that take no pass over memory of their own: they are left to the quantizer behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import nn

from spos_quant.quant.fused_quant import FusedIntQuant, rectifying
from spos_quant.quant.scales import ClipStep
from spos_quant.quant.switch import SwitchLayer

absorbed: WeakSet[nn.Module] = WeakSet()
"""ReLUs that are left to the layer behind; whoever runs layers in a row leaves them out."""


@contextmanager
def absorbed_relus(pairs: Iterable[tuple[nn.ReLU, nn.Module]]) -> Iterator[None]:
    """While open, ReLUs are left to the layers behind them, wherever these quantize to levels from zero up.

    Values and gradients are those of both, to the last bit. What has hooks stays as it is.

    Args:
        pairs: ReLUs, each with the layer that alone reads what it gives.
    """
    relus: list[nn.Module] = []
    readers: list[nn.Module] = []
    for relu, layer in pairs:
        quantizers = _from_zero(layer)
        if quantizers and relu not in absorbed and not hooked(relu) and not hooked(layer):
            relus.append(relu)
            readers += [layer, *quantizers]
    absorbed.update(relus)
    rectifying.update(readers)
    try:
        yield
    finally:
        absorbed.difference_update(relus)
        rectifying.difference_update(readers)


def hooked(module: nn.Module) -> bool:
    """Whether something watches a module, or changes what it gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _from_zero(layer: nn.Module) -> list[nn.Module]:
    """The quantizers of a layer's input, if all have zero as their qmin level and a learned clip; none otherwise."""
    made = input_quantizers(layer)
    fused = [quantizer.int_quant for quantizer in made if has_clip(quantizer) and not quantizer.int_quant.signed]
    return fused if len(fused) == len(made) else []


def input_quantizers(layer: nn.Module, *, active: bool = False) -> list[Any]:
    """Brevitas's quantizers of a layer's input: one per bit-width, or that of the active bits alone."""
    proxies: list[Any] = []
    if isinstance(layer, SwitchLayer) and layer.input_quant is not None:
        by_bits = layer.input_quant.by_bits
        if not active:
            proxies = list(by_bits.values())
        elif layer.act_bits is not None:
            proxies = [by_bits[str(layer.act_bits)]]
    elif isinstance(layer, QuantLayer) and layer.input_quant.is_quant_enabled and not layer.input_quant.disable_quant:
        proxies = [layer.input_quant]
    return [proxy.fused_activation_quant_proxy.tensor_quant for proxy in proxies]


def has_clip(quantizer: Any) -> bool:
    """Whether a quantizer rounds to whole steps up to a learned clip."""
    inner, step = (getattr(quantizer, name, None) for name in ("int_quant", "scaling_impl"))
    return isinstance(inner, FusedIntQuant) and isinstance(step, ClipStep)
