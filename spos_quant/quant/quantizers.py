"""Weight and activation quantizers by bit-width, as declarative Brevitas classes filed under names for YAML.

References:
    [Max1960] J. Max, Quantizing for minimum distortion, IRE Trans. Information Theory 6, 1960.
    [Rastegari2016] XNOR-Net, arXiv 1603.05279. [Choi2018] PACT, arXiv 1805.06085.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brevitas.core.stats import MeanSigmaStd
from brevitas.inject.enum import QuantType, RestrictValueType, ScalingImplType, ScalingPerOutputType, StatsOp
from brevitas.quant.base import IntQuant, ParamMinMaxInitScaling, PerTensorFloatScaling8bit, UintQuant
from brevitas.quant.scaled_int import Int8WeightPerChannelFloat
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver
from torch import Tensor

from spos_quant.errors import ConfigError
from spos_quant.registry import Registry

Injector = type[Any]
"""A Brevitas dependency-injection class: what `weight_quant=` and `input_quant=` of its layers take."""

weight_quantizers: Registry[Callable[[int], Injector]] = Registry(
    "weight quantizer", home=("spos_quant.quant.quantizers", "spos_quant.quant.least_squares")
)
act_quantizers: Registry[Callable[[int, bool], Injector]] = Registry(
    "activation quantizer", home=("spos_quant.quant.quantizers",)
)

# The step of least squared error for Gaussian weights with 3, 7 and 15 levels is 1.224, 0.651 and 0.353 standard
# deviations [Max1960]. Brevitas builds the largest level as mean|w| + sigma * std|w|, which for a Gaussian is
# (0.798 + 0.603 sigma) standard deviations; these sigmas give those steps.
_GAUSSIAN_SIGMA = {2: 0.706, 3: 1.914, 4: 2.78}


class _MeanSigmaStd(MeanSigmaStd):  # type: ignore[misc]
    """mean|w| + sigma * std|w| per channel; a channel of a single weight has no deviation (Brevitas says NaN)."""

    def forward(self, x: Tensor) -> Tensor:
        """`[C]` largest levels of `[C, n]` weights."""
        largest: Tensor = super().forward(x) if x.shape[1] > 1 else x.abs().flatten()
        return largest


class _Binary(WeightQuantSolver):  # type: ignore[misc]
    """Levels -T and +T with T the mean of |w| per output channel [Rastegari2016]; leaves the float weight alone."""

    quant_type = QuantType.BINARY
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.AVE
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    restrict_scaling_type = RestrictValueType.FP
    scaling_min_val = 1e-10
    signed = True
    narrow_range = True
    bit_width = 1


class _UnsignedClip(UintQuant, ParamMinMaxInitScaling, PerTensorFloatScaling8bit, ActQuantSolver):  # type: ignore[misc]
    """2^b levels from 0 to a learned clip T [Choi2018]; the clip is a parameter from the start, calibrated later."""

    min_val = 0.0
    max_val = 6.0
    scaling_min_val = 1e-6


class _SignedClip(IntQuant, ParamMinMaxInitScaling, PerTensorFloatScaling8bit, ActQuantSolver):  # type: ignore[misc]
    """2^b levels from -T to T (2^(b-1) - 1) / 2^(b-1), with a learned clip T."""

    min_val = -6.0
    max_val = 6.0
    scaling_min_val = 1e-6


class _SignedBinary(ActQuantSolver):  # type: ignore[misc]
    """Levels -T and +T with a learned T: a signed 1-bit activation has no zero."""

    quant_type = QuantType.BINARY
    scaling_impl_type = ScalingImplType.PARAMETER
    scaling_per_output_type = ScalingPerOutputType.TENSOR
    restrict_scaling_type = RestrictValueType.FP
    bit_width = 1
    signed = True
    narrow_range = True
    min_val = -6.0
    max_val = 6.0
    scaling_min_val = 1e-6


@weight_quantizers.register("gaussian")
def gaussian(bits: int) -> Injector:
    """The step follows the standard deviation at 2 to 4 bits, the maximum above, mean|w| at 1 bit; stateless."""
    if bits in _GAUSSIAN_SIGMA:
        return _let(
            Int8WeightPerChannelFloat,
            bit_width=bits,
            scaling_stats_impl=_MeanSigmaStd,
            sigma=_GAUSSIAN_SIGMA[bits],
        )
    return absmax(bits)


@weight_quantizers.register("absmax")
def absmax(bits: int) -> Injector:
    """The largest level is the largest |w| of the output channel; mean|w| at 1 bit; stateless."""
    return _let(_Binary) if bits == 1 else _let(Int8WeightPerChannelFloat, bit_width=bits)


@act_quantizers.register("pact")
def pact(bits: int, signed: bool) -> Injector:
    """A learned clip per tensor [Choi2018]."""
    if not signed:
        return _let(_UnsignedClip, bit_width=bits)
    return _let(_SignedBinary) if bits == 1 else _let(_SignedClip, bit_width=bits)


def _let(base: Any, **settings: Any) -> Injector:
    made: Injector = base.let(**settings) if settings else base
    return made


def quantizer_pair(name: str) -> tuple[Callable[[int], Injector], Callable[[int, bool], Injector]]:
    """The weight quantizer and the activation quantizer of a name such as `gaussian+pact`.

    Raises:
        ConfigError: not two names joined by `+`, or one that is not registered (with a near match).
    """
    weight, plus, act = name.partition("+")
    if not plus:
        raise ConfigError(f"quantizer {name!r}: expected WEIGHTS+ACTIVATIONS, such as gaussian+pact")
    return weight_quantizers[weight], act_quantizers[act]
