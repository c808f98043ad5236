"""What Brevitas lacks of steps and codes: a deviation of one weight, learned steps that can be sliced, codes without 0.

References:
    [Esser2020] Learned step size quantization, arXiv 1902.08153.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from brevitas.core.quant import IntQuant
from brevitas.core.scaling import ParameterScaling, StatsFromParameterScaling
from brevitas.core.stats import MeanSigmaStd
from brevitas.function.ops import max_int, min_int
from brevitas.function.ops_ste import floor_ste
from torch import Tensor, nn

from spos_quant.quant.kernels import LONG_ROW, active, row_variances
from spos_quant.quant.views import KernelView


class StatisticalStep(StatsFromParameterScaling):  # type: ignore[misc]
    """Brevitas's step of a weight from its statistics, in few operations."""

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The largest level of the statistics of `x` over the largest code, `threshold`, which one bit has not."""
        stats = self.parameter_list_stats.stats
        statistic, shape = stats.stats_impl, stats.stats_output_shape
        if isinstance(statistic, MeanSigmaStdOfOne) and _has_kernels(x, shape) and self._of_one():
            largest = _MeanSigmaStd.apply(x, shape, statistic.sigma(), statistic.impl.epsilon)
        else:
            largest = self.parameter_list_stats(x)
        made: Tensor = _Step.apply(largest, threshold, self.stats_scaling_impl.clamp_scaling.min_val)
        return made

    def _of_one(self) -> bool:
        """Whether the statistics are of what is quantized, and not of all weights of layers that share a quantizer."""
        tracked = self.parameter_list_stats
        return tracked.extra_tracked_params_list is None and not hasattr(tracked.first_tracked_param, "parameter")


class ClipStep(ParameterScaling):  # type: ignore[misc]
    """Brevitas's step of a learned clip, in few operations."""

    def forward(self, _x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The clip over the largest code, `threshold`, which one bit has not."""
        made: Tensor = _Step.apply(self.value.abs(), threshold, self.restrict_clamp_scaling.clamp_ste.min_val)
        return made


class _Step(torch.autograd.Function):
    """A largest level, but at least `least`, over the largest code; the gradient ignores the bound, as Brevitas's."""

    @staticmethod
    def forward(ctx: Any, largest: Tensor, code: Tensor | None, least: float) -> Tensor:
        ctx.code = code  # None at one bit, whose only level is the step; a constant, of which nobody wants a gradient
        ctx.set_materialize_grads(False)  # a step that nobody used moves nothing
        level = largest.clamp_min(least)
        return level if code is None else level / code

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        (gradient,) = gradients
        return gradient if ctx.code is None or gradient is None else gradient / ctx.code, None, None


class LargestCode(nn.Module):
    """The integer of the largest level, computed once.

    Args:
        bit_width: Bits.
        signed: Whether there are levels below zero.
        narrow_range: Whether the most negative integer is left out.
    """

    def __init__(self, bit_width: int, signed: bool, narrow_range: bool) -> None:
        super().__init__()
        width = torch.tensor(float(bit_width))
        code = -min_int(signed, narrow_range, width) if signed else max_int(signed, narrow_range, width)
        self.code: Tensor
        self.register_buffer("code", code, persistent=False)

    def forward(self, _bit_width: Tensor) -> Tensor:
        """A scalar."""
        return self.code


class MeanSigmaStdOfOne(MeanSigmaStd):  # type: ignore[misc]
    """mean|w| + sigma * std|w| per channel; a channel of a single weight has no deviation (Brevitas says NaN)."""

    def forward(self, x: Tensor) -> Tensor:
        """`[C]` largest levels of `[C, n]` weights."""
        largest: Tensor = super().forward(x) if x.shape[1] > 1 else x.abs().flatten()
        return largest


def _has_kernels(x: Tensor, scales: tuple[int, ...]) -> bool:
    """Whether there are compiled kernels for the rows of a weight: two at least, of two weights at least."""
    return set(scales) != {1} and active(x).compiled and 1 < x.shape[_channel_dim(scales)] < x.numel()


def _channel_dim(scales: tuple[int, ...]) -> int:
    return next(dim for dim, size in enumerate(scales) if size != 1)


class _MeanSigmaStd(torch.autograd.Function):
    """`MeanSigmaStdOfOne` of a weight, with compiled kernels for the variance and for the way back.

    The result is that of Brevitas to the last bit: the mean is a sum in torch's order, the variance, on a CPU, one in
    float64.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: tuple[int, ...], sigma: Tensor, epsilon: float) -> Tensor:
        dim = _channel_dim(scales)
        rows = x if dim == 0 else x.movedim(dim, 0).contiguous()  # sums are of Brevitas's order
        sizes = rows.flatten(1).abs()
        variances = active(x).variances if sizes.shape[1] >= LONG_ROW else row_variances
        mean, std = sizes.mean(1), (variances(sizes.contiguous()).view(-1) + epsilon).sqrt()
        ctx.save_for_backward(x, sigma, mean, std)
        ctx.dim, ctx.epsilon = dim, epsilon
        return (mean + sigma * std).view(scales)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, sigma, mean, std = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants second derivatives: plain operations, which have them
            inner = x.view_as(x)
            sizes = inner.movedim(ctx.dim, 0).flatten(1).abs()
            made = (sizes.mean(1) + sigma * (sizes.var(1) + ctx.epsilon).sqrt()).view_as(upstream[0])
            return *torch.autograd.grad(made, inner, upstream[0], create_graph=True), None, None, None
        per_row = x.numel() // len(mean)
        gradient = upstream[0].reshape(-1)
        slope = gradient * sigma / (std * (per_row - 1))
        offset = gradient / per_row - slope * mean
        view = KernelView(x, tuple(upstream[0].shape))
        kernel = active(x).deviation_gradients
        return view.back(kernel(view.of(x), view.scale(slope), view.scale(offset))), None, None, None


class LearnedScale(nn.Module):
    """A learned step per output channel of a weight, in the place of Brevitas's `scaling_impl` [Esser2020].

    One value per channel of the whole weight; a slice of the weight uses the first ones. A vector, so that recipes that
    give no weight decay to what has one dimension leave it alone. It starts where the statistics of the quantizer that
    it is put into would have put the step.

    Args:
        tracked_parameter_list: The weight comes first.
        scaling_stats_impl: `[C, n]` weights to their `[C]` largest levels.
        scaling_shape: What the steps of a weight are viewed as; one dimension is -1 where the weight may be sliced.
        output_channel_dim: The dimension of the output channels in the weight.
        largest_code: The integer of the largest level.
        scaling_min_val: The least step.
    """

    def __init__(
        self,
        tracked_parameter_list: list[nn.Parameter],
        scaling_stats_impl: nn.Module,
        scaling_shape: tuple[int, ...],
        output_channel_dim: int,
        largest_code: int,
        scaling_min_val: float = 1e-10,
    ) -> None:
        super().__init__()
        self.stats = scaling_stats_impl
        self.shape, self.channel_dim = scaling_shape, output_channel_dim
        self.largest_code, self.least = largest_code, scaling_min_val
        weight = tracked_parameter_list[0]
        self.value = nn.Parameter(weight.detach().new_empty(weight.shape[output_channel_dim]))
        self.start(weight)

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Puts the steps where the statistics of this weight want them."""
        rows = weight.transpose(0, self.channel_dim).flatten(1)
        self.value.copy_(self.stats(rows).clamp_min(self.least) / self.largest_code)

    def forward(self, x: Tensor, _threshold: Tensor | None = None) -> Tensor:
        """The steps of the channels of `x`, viewed so that they can be multiplied with it.

        The gradient is scaled by 1 / sqrt(weights per step x largest code), Eq. 4 of [Esser2020] for one channel.
        """
        channels = x.shape[self.channel_dim]
        per_step = x.numel() // channels
        value: Tensor = _Gentle.apply(self.value[:channels], 1 / sqrt(per_step * self.largest_code))
        return value.abs().clamp_min(self.least).view(self.shape)


class _Gentle(torch.autograd.Function):
    """The identity, with a gradient that is so many times as large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class OddCodes(nn.Module):
    """The largest code of a quantizer without a zero: 2^b levels at the odd integers up to 2^b - 1."""

    def __init__(self) -> None:  # Brevitas reads from the signature what it must inject
        super().__init__()

    def forward(self, bit_width: Tensor) -> Tensor:
        """`2^b - 1`."""
        return 2.0**bit_width - 1


class MidRiseQuant(IntQuant):  # type: ignore[misc]
    """Rounds to the odd multiples of the scale, which is half a step: a mid-rise quantizer, with no level at zero."""

    def to_int(self, scale: Tensor, _zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """The odd integers that stand for `x`."""
        codes = floor_ste(x / (2 * scale)) * 2 + 1
        made: Tensor = self.tensor_clamp_impl(codes, min_val=self.min_int(bit_width), max_val=self.max_int(bit_width))
        return made

    def min_int(self, bit_width: Tensor) -> Tensor:
        """The smallest code."""
        return 1 - 2.0**bit_width

    def max_int(self, bit_width: Tensor) -> Tensor:
        """The largest code."""
        return 2.0**bit_width - 1
