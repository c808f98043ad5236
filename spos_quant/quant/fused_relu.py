"""ReLUs without their own pass over memory: the quantizer that follows applies them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import nn

from spos_quant.quant.fused_quant import FusedIntQuant, rectifying
from spos_quant.quant.scales import ClipScale
from spos_quant.quant.switch import SwitchLayer

absorbed: WeakSet[nn.Module] = WeakSet()
"""ReLUs that the following layer applies; code that runs layers in sequence skips them."""


@contextmanager
def fused_relus(pairs: Iterable[tuple[nn.ReLU, nn.Module]]) -> Iterator[None]:
    """Makes layers apply the ReLU in front of them while open, if they quantize their input unsigned.

    Values and gradients are bit-identical to the separate operations. Modules with hooks are not changed.

    Args:
        pairs: ReLUs, each with the only layer that reads its output.
    """
    relus: list[nn.Module] = []
    readers: list[nn.Module] = []
    for relu, layer in pairs:
        quantizers = _unsigned_quantizers(layer)
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
    """Whether a module has hooks, which may observe or change its output."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _unsigned_quantizers(layer: nn.Module) -> list[nn.Module]:
    """The quantizers of a layer's input, if all are unsigned and have a learned clip; otherwise none."""
    made = input_quantizers(layer)
    fused = [quantizer.int_quant for quantizer in made if has_clip(quantizer) and not quantizer.int_quant.signed]
    return fused if len(fused) == len(made) else []


def input_quantizers(layer: nn.Module, *, active: bool = False) -> list[Any]:
    """Brevitas's quantizers of a layer's input: one per bit-width, or only that of the active bits."""
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
    """Whether a quantizer rounds to integers times a scale that a learned clip determines."""
    int_quant, scaling = (getattr(quantizer, name, None) for name in ("int_quant", "scaling_impl"))
    return isinstance(int_quant, FusedIntQuant) and isinstance(scaling, ClipScale)
