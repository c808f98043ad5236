"""Residual sums in one loop with what is done to them next: their ReLU, and the quantizer that reads them first."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.quant.fused_quant import (
    FusedIntQuant,
    PrecomputedActivation,
    rectifying,
    saved_by_hooks,
    straight_through,
)
from spos_quant.quant.fused_relu import has_clip, input_quantizers
from spos_quant.quant.kernels import active
from spos_quant.quant.views import KernelView


def residual_sum(x: Tensor, y: Tensor, reader: nn.Module | None, *, relu: bool) -> Tensor:
    """`x + y`, or `relu(x + y)`, in one loop where kernels are compiled; both may be read elsewhere.

    Args:
        x: A tensor.
        y: As `x`.
        reader: The layer that is expected to read the sum first. While gradients are recorded, its quantizer's answer
            is made in the same loop and lies ready for it. A wrong guess costs time and changes nothing. With a reader
            the sum is saved for the way back: until it is read, it must not be changed in place.
        relu: Whether the sum is rectified.
    """
    alike = x.shape == y.shape and x.stride() == y.stride() and x.dtype == y.dtype
    if active(x).compiled and alike and _dense(x):
        learns = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad) and not saved_by_hooks()
        quantizer = _active_quantizer(reader) if reader is not None and learns else None
        if quantizer is not None:
            return _with_levels(x, y, quantizer, relu)
        if relu:
            made: Tensor = _SumRelu.apply(x, y)
            return made
    return (x + y).relu_() if relu else x + y


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _active_quantizer(reader: nn.Module) -> Any | None:
    """The quantizer of the reader's input at its active bits, if its step does not depend on what it reads."""
    for quantizer in input_quantizers(reader, active=True):
        if has_clip(quantizer) and quantizer.int_quant not in rectifying:
            return quantizer
    return None


def _with_levels(x: Tensor, y: Tensor, quantizer: Any, relu: bool) -> Tensor:
    """The sum, with the levels that the quantizer rounds it to laid ready."""
    inner: FusedIntQuant = quantizer.int_quant
    step = quantizer.scaling_impl(x, quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl()))
    low, high = inner.qmin.to(x.dtype), inner.qmax.to(x.dtype)
    made, levels = _SumLevels.apply(x, y, step, low, high, inner.clips, 0.0 if relu else -inf)
    PrecomputedActivation.attach(made, inner, levels)
    result: Tensor = made
    return result


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


class _SumLevels(torch.autograd.Function):
    """The sum, at least `floor`, and its levels, with one gradient for both summands and one for the step."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, step: Tensor, low: Tensor, high: Tensor, clips: bool, floor: float
    ) -> tuple[Tensor, Tensor]:
        view = KernelView(x, step.shape)
        bound = x.new_full((), floor)
        made, levels = active(x).sum_levels(view.of(x), view.of(y), view.scale(step), low, high, bound)
        made, levels = _own(view.back(made)), _own(view.back(levels))
        ctx.save_for_backward(made, step, low, high)
        ctx.clips, ctx.floor = clips, floor
        ctx.set_materialize_grads(False)
        return made, levels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        made, step, low, high = ctx.saved_tensors
        if gradients[1] is None:  # nobody took the levels
            alone = gradients[0] if gradients[0] is None else torch.where(made <= ctx.floor, 0.0, gradients[0])
            return alone, alone, None, None, None, None, None
        upstream = [torch.zeros_like(made) if gradient is None else gradient for gradient in gradients]
        if torch.is_grad_enabled():  # somebody wants second derivatives: plain operations, which have them
            inputs = made.view_as(made), step.view_as(step)
            levels = straight_through(*inputs, low, high, ctx.clips)
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            found = iter(torch.autograd.grad(levels, wanted, upstream[1], create_graph=True))
            through, for_step = (next(found) if tensor.requires_grad else None for tensor in inputs)
            whole = upstream[0] if through is None else upstream[0] + through
            gradient = torch.where(made <= ctx.floor, 0.0, whole)
            return gradient, gradient, for_step, None, None, None, None
        view, kernels = KernelView(made, step.shape), active(made)
        clips, floor = made.new_full((), float(ctx.clips)), made.new_full((), ctx.floor)
        tensors = (view.of(tensor) for tensor in (*upstream, made))
        flat, for_step = kernels.sum_gradients(*tensors, view.scale(step), low, high, clips, floor)
        gradient = view.back(flat)
        return gradient, gradient, for_step.reshape(step.shape), None, None, None, None


def _own(x: Tensor) -> Tensor:
    """The same memory, as no view: views that come from a function of several results cannot be changed in place."""
    return x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())
