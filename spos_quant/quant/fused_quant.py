"""Brevitas's integer quantizer with one operation in place of its chain of them; supernets and subnets share it.

It is injected through Brevitas's own mechanism, so everything else of a quantizer (statistics, learned clips, export)
is stock. The forward pass equals the stock one to the last bit, and so does the gradient of the tensor; the gradient of
the scale is summed in another order (decision record 0023).
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
"""Quantizers, and the layers that hold them, that do the work of the ReLU in front (`quant.fused_relu`).

Not a flag of theirs, so that a copy, which nobody would put right again, is never among them.
"""


class FusedIntQuant(IntQuant):  # type: ignore[misc]
    """Rounds to whole steps between two levels, as one autograd function.

    Args:
        narrow_range: As of Brevitas's `IntQuant`, like the rest.
        signed: Whether there are levels below zero.
        input_view_impl: Applied to what is quantized.
        bit_width: Whose levels are computed once.
        float_to_int_impl: Must round.
        tensor_clamp_impl: Decides about the gradient beyond the levels.
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
        """`x` on the levels of `bit_width`, of its shape; the zero point of our quantizers is always 0."""
        del zero_point, bit_width
        ahead = PrecomputedActivation.pop(x, self)
        if ahead is not None:
            return ahead
        low, high = self.qmin.to(x.dtype), self.qmax.to(x.dtype)
        result: Tensor = _FakeQuant.apply(self.input_view_impl(x), scale, low, high, self.clips, self in rectifying)
        return result

    @property
    def clips(self) -> bool:
        """Whether values beyond the levels get a gradient too."""
        return isinstance(self.tensor_clamp_impl, TensorClampSte)


class PrecomputedActivation(NamedTuple):
    """What a quantizer makes of a tensor, made with the tensor and kept at it until the quantizer asks."""

    quantizer: FusedIntQuant
    levels: Tensor
    version: int
    """Of the tensor: what has been changed in place is quantized anew."""
    made_by: object
    """The node of the graph that gave both."""

    @staticmethod
    def attach(x: Tensor, quantizer: FusedIntQuant, levels: Tensor) -> None:
        """Keeps `levels` at `x`."""
        vars(x)["_spos_quant_ahead"] = PrecomputedActivation(quantizer, levels, x._version, x.grad_fn)

    @staticmethod
    def pop(x: Tensor, quantizer: FusedIntQuant) -> Tensor | None:
        """What `quantizer` makes of `x`, once, if it is there: two readers have a gradient each, which are summed.

        Where somebody watches the gradient of `x` it must be whole, and where tensors are saved through hooks, as in
        activation checkpointing, a second pass must do what the first did.
        """
        ahead = getattr(x, "_spos_quant_ahead", None)
        if ahead is None or ahead.quantizer is not quantizer or x._backward_hooks or x.retains_grad or saved_by_hooks():
            return None
        del vars(x)["_spos_quant_ahead"]
        return ahead.levels if ahead.version == x._version and ahead.made_by is x.grad_fn else None


def saved_by_hooks() -> bool:
    """Whether what a backward pass needs is saved through hooks."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def integer_codes(x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The codes of `x` counted from the qmin level: uint8 of its shape and order in memory, no more than 256 levels.

    Times the step, with `low` added first, they are what the quantizer makes of `x`, to the last bit.
    """
    view = KernelView(x, step.shape)
    return view.back(active(x).codes(view.of(x), view.scale(step), low, high))


class _FakeQuant(torch.autograd.Function):
    """`quantized` with its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, clipped: bool, rectifies: bool
    ) -> Tensor:
        ctx.save_for_backward(x, scale, low, high)
        ctx.clipped, ctx.rectifies = clipped, rectifies
        view, kernels = KernelView(x, scale.shape), active(x)
        kernel = kernels.flat if view.one else kernels.rows
        return view.back(kernel(view.of(x), view.scale(scale), low, high))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, low, high = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants second derivatives: plain operations, which have them
            inputs = x.view_as(x), scale.view_as(scale)  # a scale that is made from x must not lead to it here
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            y = straight_through(inputs[0].relu() if ctx.rectifies else inputs[0], inputs[1], low, high, ctx.clipped)
            found = iter(torch.autograd.grad(y, wanted, upstream[0], create_graph=True))
            return *(next(found) if tensor.requires_grad else None for tensor in inputs), None, None, None, None
        # Made where they are needed: a GPU waits for copies.
        clipped, floor = x.new_full((), float(ctx.clipped)), x.new_full((), 0.0 if ctx.rectifies else -inf)
        view, kernels = KernelView(x, scale.shape), active(x)
        kernel = kernels.flat_gradients if view.one else kernels.row_gradients
        for_x, for_scale = kernel(view.of(upstream[0]), view.of(x), view.scale(scale), low, high, clipped, floor)
        return view.back(for_x), for_scale.reshape(scale.shape), None, None, None, None


def straight_through(x: Tensor, scale: Tensor, low: Tensor, high: Tensor, clipped: bool) -> Tensor:
    """The quantizer in operations that autograd can follow twice."""
    steps = x / scale
    rounded = steps + (torch.round(steps) - steps).detach()
    level = torch.clamp(rounded, low, high)
    return (rounded + (level - rounded).detach() if clipped else level) * scale
