"""Brevitas's integer quantizer as one operation instead of a chain of them, for supernets and subnets.

It is injected through Brevitas's own mechanism, so the rest of a quantizer (statistics, learned clips, export) is
stock. The forward pass and the gradient of the tensor are bit-identical to stock Brevitas; the gradient of the scale is
summed in another order (decision record 0023).
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple
from weakref import WeakSet

import brevitas
import torch
from brevitas.core.function_wrapper import RoundSte, TensorClamp, TensorClampSte
from brevitas.core.quant.int_base import IntQuant
from torch import Tensor, nn

from spos_quant.quant.kernels import active
from spos_quant.quant.views import KernelView

rectifying: WeakSet[nn.Module] = WeakSet()
"""Quantizers, and the layers that hold them, that apply the preceding ReLU (`quant.fused_relu`).

A set instead of an attribute, so that a copy of a module is never included: nothing would reset its attribute.
"""


class FusedIntQuant(IntQuant):  # type: ignore[misc]
    """Rounds to the integers from `qmin` to `qmax` times the scale, as one autograd function.

    Args:
        narrow_range: As in Brevitas's `IntQuant`, like the rest.
        signed: Whether there are negative levels.
        input_view_impl: Applied to the input.
        bit_width: The bits for which `qmin` and `qmax` are computed once.
        float_to_int_impl: Must round.
        tensor_clamp_impl: Determines the gradient beyond the levels.
    """

    def __init__(
        self,
        narrow_range: bool,
        signed: bool,
        input_view_impl: nn.Module,
        bit_width: int,
        float_to_int_impl: nn.Module = RoundSte(),  # noqa: B008 - Brevitas's own default, which holds no state
        tensor_clamp_impl: nn.Module = TensorClamp(),  # noqa: B008
    ) -> None:
        super().__init__(narrow_range, signed, input_view_impl, float_to_int_impl, tensor_clamp_impl)
        width = torch.tensor(float(bit_width))
        self.register_buffer("qmin", self.min_int(width), persistent=False)
        self.register_buffer("qmax", self.max_int(width), persistent=False)

    @brevitas.jit.script_method  # type: ignore[untyped-decorator]
    def forward(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """`x` rounded to the levels, in its shape; the zero point of our quantizers is always 0."""
        del zero_point, bit_width
        precomputed = PrecomputedActivation.pop(x, self)
        if precomputed is not None:
            return precomputed
        qmin, qmax = self.qmin.to(x.dtype), self.qmax.to(x.dtype)
        result: Tensor = _FakeQuant.apply(self.input_view_impl(x), scale, qmin, qmax, self.clips, self in rectifying)
        return result

    @property
    def clips(self) -> bool:
        """Whether values beyond the levels get a gradient too."""
        return isinstance(self.tensor_clamp_impl, TensorClampSte)


_ATTRIBUTE = "_spos_quant_precomputed"


class PrecomputedActivation(NamedTuple):
    """The quantized form of a tensor, computed together with the tensor and attached to it for its quantizer."""

    quantizer: FusedIntQuant
    levels: Tensor
    version: int
    """Version of the tensor: after an in-place change it is quantized again."""
    made_by: object
    """The graph node that produced both."""

    @staticmethod
    def attach(x: Tensor, quantizer: FusedIntQuant, levels: Tensor) -> None:
        """Attaches `levels` to `x`."""
        vars(x)[_ATTRIBUTE] = PrecomputedActivation(quantizer, levels, x._version, x.grad_fn)

    @staticmethod
    def pop(x: Tensor, quantizer: FusedIntQuant) -> Tensor | None:
        """The attached levels of `x` for `quantizer`, or None. Each reader has its own gradient, so it is popped once.

        None too if the gradient of `x` is observed, because it must be complete, and if tensors are saved through
        hooks, as in activation checkpointing, because a second pass must repeat the first.
        """
        found = getattr(x, _ATTRIBUTE, None)
        if found is None or found.quantizer is not quantizer or x._backward_hooks or x.retains_grad or saved_by_hooks():
            return None
        del vars(x)[_ATTRIBUTE]
        return found.levels if found.version == x._version and found.made_by is x.grad_fn else None


def saved_by_hooks() -> bool:
    """Whether tensors for the backward pass are saved through hooks."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def integer_codes(x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
    """The integer codes of `x` minus `qmin`: uint8, in its shape and memory order; at most 256 levels.

    `(codes + qmin) * scale` is bit-identical to the quantizer's output.
    """
    view = KernelView(x, scale.shape)
    return view.back(active(x).codes(view.of(x), view.scale(scale), qmin, qmax))


class _FakeQuant(torch.autograd.Function):
    """`quantized` with its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor, clipped: bool, rectifies: bool
    ) -> Tensor:
        ctx.save_for_backward(x, scale, qmin, qmax)
        ctx.clipped, ctx.rectifies = clipped, rectifies
        view, kernels = KernelView(x, scale.shape), active(x)
        kernel = kernels.flat if view.one else kernels.rows
        return view.back(kernel(view.of(x), view.scale(scale), qmin, qmax))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, qmin, qmax = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are wanted, which only plain operations have
            inputs = x.view_as(x), scale.view_as(scale)  # a scale computed from x must not lead back to it here
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            y = straight_through(inputs[0].relu() if ctx.rectifies else inputs[0], inputs[1], qmin, qmax, ctx.clipped)
            found = iter(torch.autograd.grad(y, wanted, upstream[0], create_graph=True))
            return *(next(found) if tensor.requires_grad else None for tensor in inputs), None, None, None, None
        # Created on the device of x: a copy to a GPU would synchronize.
        clipped, floor = x.new_full((), float(ctx.clipped)), x.new_full((), 0.0 if ctx.rectifies else -inf)
        view, kernels = KernelView(x, scale.shape), active(x)
        kernel = kernels.flat_gradients if view.one else kernels.row_gradients
        for_x, for_scale = kernel(view.of(upstream[0]), view.of(x), view.scale(scale), qmin, qmax, clipped, floor)
        return view.back(for_x), for_scale.reshape(scale.shape), None, None, None, None


def straight_through(x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor, clipped: bool) -> Tensor:
    """The quantizer in operations that autograd can differentiate twice."""
    ratio = x / scale
    rounded = ratio + (torch.round(ratio) - ratio).detach()
    code = torch.clamp(rounded, qmin, qmax)
    return (rounded + (code - rounded).detach() if clipped else code) * scale
