"""ReLUs that take no pass over memory of their own: left to the quantizer behind, or one loop with the sum in front."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import Tensor, nn

from spos_quant.quant.fused import FusedIntQuant
from spos_quant.quant.kernels import active
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
