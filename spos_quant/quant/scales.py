"""Scales and codes that Brevitas lacks: std of a single weight, learned scales that can be sliced, codes without 0.

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


class StatisticalScale(StatsFromParameterScaling):  # type: ignore[misc]
    """Brevitas's scale of a weight from its statistics, in few operations."""

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The clip from the statistics of `x`, divided by its integer `threshold` (None at 1 bit)."""
        stats = self.parameter_list_stats.stats
        statistic, shape = stats.stats_impl, stats.stats_output_shape
        if isinstance(statistic, MeanSigmaStdPerChannel) and _has_kernels(x, shape) and self._of_one_weight():
            clip = _MeanSigmaStd.apply(x, shape, statistic.sigma(), statistic.impl.epsilon)
        else:
            clip = self.parameter_list_stats(x)
        made: Tensor = _ClipToScale.apply(clip, threshold, self.stats_scaling_impl.clamp_scaling.min_val)
        return made

    def _of_one_weight(self) -> bool:
        """Whether the statistics are of this weight alone, not of all layers that share the quantizer."""
        tracked = self.parameter_list_stats
        return tracked.extra_tracked_params_list is None and not hasattr(tracked.first_tracked_param, "parameter")


class ClipScale(ParameterScaling):  # type: ignore[misc]
    """Brevitas's scale of a learned clip, in few operations."""

    def forward(self, _x: Tensor, threshold: Tensor | None = None) -> Tensor:
        """The clip, divided by its integer `threshold` (None at 1 bit)."""
        made: Tensor = _ClipToScale.apply(self.value.abs(), threshold, self.restrict_clamp_scaling.clamp_ste.min_val)
        return made


class _ClipToScale(torch.autograd.Function):
    """`max(clip, min_val) / code`; the gradient ignores the lower bound, as in Brevitas."""

    @staticmethod
    def forward(ctx: Any, clip: Tensor, code: Tensor | None, min_val: float) -> Tensor:
        ctx.code = code  # None at 1 bit, whose scale is the clip; a constant without gradient
        ctx.set_materialize_grads(False)  # an unused scale has no gradient, so that no optimizer step changes it
        bounded = clip.clamp_min(min_val)
        return bounded if code is None else bounded / code

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        (gradient,) = gradients
        return gradient if ctx.code is None or gradient is None else gradient / ctx.code, None, None


class QMax(nn.Module):
    """The integer that the clip maps to, `-qmin` if signed and `qmax` otherwise; computed once.

    Args:
        bit_width: Bits.
        signed: Whether there are negative levels.
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


class MeanSigmaStdPerChannel(MeanSigmaStd):  # type: ignore[misc]
    """mean|w| + sigma * std|w| per channel; std|w| of a single weight counts as 0 (Brevitas returns NaN)."""

    def forward(self, x: Tensor) -> Tensor:
        """`[C]` clips of `[C, n]` weights."""
        clip: Tensor = super().forward(x) if x.shape[1] > 1 else x.abs().flatten()
        return clip


def _has_kernels(x: Tensor, scales: tuple[int, ...]) -> bool:
    """Whether compiled kernels take the rows of a weight: at least two rows of at least two weights."""
    return set(scales) != {1} and active(x).compiled and 1 < x.shape[_channel_dim(scales)] < x.numel()


def _channel_dim(scales: tuple[int, ...]) -> int:
    return next(dim for dim, size in enumerate(scales) if size != 1)


class _MeanSigmaStd(torch.autograd.Function):
    """`MeanSigmaStdPerChannel` of a weight, with compiled kernels for the variance and the backward pass.

    The result is bit-identical to Brevitas: the mean is summed in torch's order and, on a CPU, the variance in float64.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: tuple[int, ...], sigma: Tensor, epsilon: float) -> Tensor:
        dim = _channel_dim(scales)
        rows = x if dim == 0 else x.movedim(dim, 0).contiguous()  # Brevitas sums in this order
        magnitudes = rows.flatten(1).abs()
        variances = active(x).variances if magnitudes.shape[1] >= LONG_ROW else row_variances
        mean, std = magnitudes.mean(1), (variances(magnitudes.contiguous()).view(-1) + epsilon).sqrt()
        ctx.save_for_backward(x, sigma, mean, std)
        ctx.dim, ctx.epsilon = dim, epsilon
        return (mean + sigma * std).view(scales)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, sigma, mean, std = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are wanted, which only plain operations have
            inner = x.view_as(x)
            magnitudes = inner.movedim(ctx.dim, 0).flatten(1).abs()
            made = (magnitudes.mean(1) + sigma * (magnitudes.var(1) + ctx.epsilon).sqrt()).view_as(upstream[0])
            return *torch.autograd.grad(made, inner, upstream[0], create_graph=True), None, None, None
        per_row = x.numel() // len(mean)
        gradient = upstream[0].reshape(-1)
        slope = gradient * sigma / (std * (per_row - 1))
        offset = gradient / per_row - slope * mean
        view = KernelView(x, tuple(upstream[0].shape))
        kernel = active(x).deviation_gradients
        return view.back(kernel(view.of(x), view.scale(slope), view.scale(offset))), None, None, None


class LearnedScale(nn.Module):
    """A learned scale per output channel of a weight, in place of Brevitas's `scaling_impl` [Esser2020].

    One value per channel of the full weight; a slice of the weight uses the first ones. The values are a vector, so
    that recipes without weight decay on 1-D parameters exempt them. They are initialized from the statistics of the
    quantizer.

    Args:
        tracked_parameter_list: Its first entry is the weight.
        scaling_stats_impl: Maps `[C, n]` weights to their `[C]` clips.
        scaling_shape: Shape of the scales next to the weight; one dimension is -1 if the weight may be sliced.
        output_channel_dim: The dimension of the output channels in the weight.
        largest_code: `qmax`, the integer of the clip.
        scaling_min_val: Lower bound of the scale.
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
        self.largest_code, self.min_val = largest_code, scaling_min_val
        weight = tracked_parameter_list[0]
        self.value = nn.Parameter(weight.detach().new_empty(weight.shape[output_channel_dim]))
        self.start(weight)

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Initializes the scales from the statistics of this weight."""
        rows = weight.transpose(0, self.channel_dim).flatten(1)
        self.value.copy_(self.stats(rows).clamp_min(self.min_val) / self.largest_code)

    def forward(self, x: Tensor, _threshold: Tensor | None = None) -> Tensor:
        """The scales of the channels of `x`, in a shape that broadcasts with `x`.

        The gradient is multiplied by 1 / sqrt(weights per scale x qmax), Eq. 4 of [Esser2020] for one channel.
        """
        channels = x.shape[self.channel_dim]
        per_scale = x.numel() // channels
        value: Tensor = _ScaleGradient.apply(self.value[:channels], 1 / sqrt(per_scale * self.largest_code))
        return value.abs().clamp_min(self.min_val).view(self.shape)


class _ScaleGradient(torch.autograd.Function):
    """The identity, with its gradient multiplied by `factor`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class OddCodes(nn.Module):
    """`qmax` of a quantizer without a zero: its 2^b levels are the odd integers from 1 - 2^b to 2^b - 1."""

    def __init__(self) -> None:  # Brevitas injects the arguments of this signature
        super().__init__()

    def forward(self, bit_width: Tensor) -> Tensor:
        """`2^b - 1`."""
        return 2.0**bit_width - 1


class MidRiseQuant(IntQuant):  # type: ignore[misc]
    """A mid-rise quantizer: rounds to odd multiples of the scale, which is half the distance between levels."""

    def to_int(self, scale: Tensor, _zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """The odd integer codes of `x`."""
        codes = floor_ste(x / (2 * scale)) * 2 + 1
        made: Tensor = self.tensor_clamp_impl(codes, min_val=self.min_int(bit_width), max_val=self.max_int(bit_width))
        return made

    def min_int(self, bit_width: Tensor) -> Tensor:
        """`qmin`."""
        return 1 - 2.0**bit_width

    def max_int(self, bit_width: Tensor) -> Tensor:
        """`qmax`."""
        return 2.0**bit_width - 1
