"""Residual sums in one loop with their ReLU and with the quantizer that reads them first."""

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
    """`x + y`, or `relu(x + y)`, in one loop if kernels are compiled; both summands may have other readers.

    Args:
        x: First summand.
        y: Second summand.
        reader: The layer expected to read the sum first. While gradients are recorded, the sum is quantized for it in
            the same loop, and the result is attached to the sum. A wrong guess costs time but changes no result. With a
            reader the sum is saved for the backward pass: until it is read, it must not be changed in place.
        relu: Whether a ReLU follows the sum.
    """
    alike = x.shape == y.shape and x.stride() == y.stride() and x.dtype == y.dtype
    if active(x).compiled and alike and _dense(x):
        learns = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad) and not saved_by_hooks()
        quantizer = _active_quantizer(reader) if reader is not None and learns else None
        if quantizer is not None:
            return _sum_and_quantize(x, y, quantizer, relu)
        if relu:
            made: Tensor = _SumRelu.apply(x, y)
            return made
    return (x + y).relu_() if relu else x + y


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _active_quantizer(reader: nn.Module) -> Any | None:
    """The quantizer of the reader's input at its active bits, if its scale does not depend on the input."""
    for quantizer in input_quantizers(reader, active=True):
        if has_clip(quantizer) and quantizer.int_quant not in rectifying:
            return quantizer
    return None


def _sum_and_quantize(x: Tensor, y: Tensor, quantizer: Any, relu: bool) -> Tensor:
    """The sum, with its quantized form attached for the quantizer."""
    inner: FusedIntQuant = quantizer.int_quant
    scale = quantizer.scaling_impl(x, quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl()))
    qmin, qmax = inner.qmin.to(x.dtype), inner.qmax.to(x.dtype)
    made, levels = _SumLevels.apply(x, y, scale, qmin, qmax, inner.clips, 0.0 if relu else -inf)
    PrecomputedActivation.attach(made, inner, levels)
    result: Tensor = made
    return result


class _SumRelu(torch.autograd.Function):
    """`relu(x + y)`, with one gradient for both summands."""

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
    """The sum, at least `floor`, and its quantized form, with one gradient for both summands and one for the scale."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor, clips: bool, floor: float
    ) -> tuple[Tensor, Tensor]:
        view = KernelView(x, scale.shape)
        bound = x.new_full((), floor)
        made, levels = active(x).sum_levels(view.of(x), view.of(y), view.scale(scale), qmin, qmax, bound)
        made, levels = _as_no_view(view.back(made)), _as_no_view(view.back(levels))
        ctx.save_for_backward(made, scale, qmin, qmax)
        ctx.clips, ctx.floor = clips, floor
        ctx.set_materialize_grads(False)
        return made, levels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        made, scale, qmin, qmax = ctx.saved_tensors
        if gradients[1] is None:  # the quantized form was not used
            alone = gradients[0] if gradients[0] is None else torch.where(made <= ctx.floor, 0.0, gradients[0])
            return alone, alone, None, None, None, None, None
        upstream = [torch.zeros_like(made) if gradient is None else gradient for gradient in gradients]
        if torch.is_grad_enabled():  # second derivatives are wanted, which only plain operations have
            inputs = made.view_as(made), scale.view_as(scale)
            levels = straight_through(*inputs, qmin, qmax, ctx.clips)
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            found = iter(torch.autograd.grad(levels, wanted, upstream[1], create_graph=True))
            through, for_scale = (next(found) if tensor.requires_grad else None for tensor in inputs)
            whole = upstream[0] if through is None else upstream[0] + through
            gradient = torch.where(made <= ctx.floor, 0.0, whole)
            return gradient, gradient, for_scale, None, None, None, None
        view, kernels = KernelView(made, scale.shape), active(made)
        clips, floor = made.new_full((), float(ctx.clips)), made.new_full((), ctx.floor)
        tensors = (view.of(tensor) for tensor in (*upstream, made))
        flat, for_scale = kernels.sum_gradients(*tensors, view.scale(scale), qmin, qmax, clips, floor)
        gradient = view.back(flat)
        return gradient, gradient, for_scale.reshape(scale.shape), None, None, None, None


def _as_no_view(x: Tensor) -> Tensor:
    """The same memory, but not as a view: torch forbids in-place changes of views among several outputs."""
    return x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())
