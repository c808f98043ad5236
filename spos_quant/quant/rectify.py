"""ReLUs that take no pass over memory of their own: left to the quantizer behind, or one loop with the sum in front."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import Tensor, nn

from spos_quant.quant.fused import FusedIntQuant, rectifying
from spos_quant.quant.kernels import active
from spos_quant.quant.scales import ClipStep
from spos_quant.quant.switch import SwitchLayer
from spos_quant.quant.views import KernelView


def sum_relu(x: Tensor, y: Tensor) -> Tensor:
    """`relu(x + y)`, in one loop where kernels are compiled; `y` may be read elsewhere, `x` too."""
    alike = x.shape == y.shape and x.stride() == y.stride() and x.dtype == y.dtype
    made: Tensor = _SumRelu.apply(x, y) if active(x).compiled and alike and _dense(x) else (x + y).relu_()
    return made


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


class _SumRelu(torch.autograd.Function):
    """`relu(x + y)` with its gradient, which is one for both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        view = KernelView(x, ())
        made = view.back(active(x).sum_relu(view.of(x), view.of(y)))
        ctx.save_for_backward(made)
        return made

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.ops.aten.threshold_backward(upstream[0], ctx.saved_tensors[0], 0)
        return gradient, gradient


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
        if quantizers and relu not in absorbed and not _hooked(relu) and not _hooked(layer):
            relus.append(relu)
            readers += [layer, *quantizers]
    absorbed.update(relus)
    rectifying.update(readers)
    try:
        yield
    finally:
        absorbed.difference_update(relus)
        rectifying.difference_update(readers)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _from_zero(layer: nn.Module) -> list[nn.Module]:
    """The quantizers of a layer's input, if all have zero as their lowest level and a learned clip; none otherwise."""
    proxies: list[Any] = []
    if isinstance(layer, SwitchLayer) and layer.input_quant is not None:
        proxies = list(layer.input_quant.by_bits.values())
    elif isinstance(layer, QuantLayer) and layer.input_quant.is_quant_enabled and not layer.input_quant.disable_quant:
        proxies = [layer.input_quant]
    made: list[Any] = [proxy.fused_activation_quant_proxy.tensor_quant for proxy in proxies]
    fused = [quantizer.int_quant for quantizer in made if _is_clip_from_zero(quantizer)]
    return fused if len(fused) == len(made) else []


def _is_clip_from_zero(quantizer: Any) -> bool:
    inner, step = (getattr(quantizer, name, None) for name in ("int_quant", "scaling_impl"))
    return isinstance(inner, FusedIntQuant) and not inner.signed and isinstance(step, ClipStep)
