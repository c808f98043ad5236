"""Weight and activation quantizers by bit-width: declarative Brevitas injectors, registered by name for YAML.

References:
    [Max1960] J. Max, Quantizing for minimum distortion, IRE Trans. Information Theory 6, 1960.
    [Rastegari2016] XNOR-Net, arXiv 1603.05279. [Choi2018] PACT, arXiv 1805.06085.
    [Esser2020] Learned step size quantization, arXiv 1902.08153.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brevitas.inject.enum import QuantType, RestrictValueType, ScalingImplType, ScalingPerOutputType, StatsOp
from brevitas.quant.base import IntQuant, ParamMinMaxInitScaling, PerTensorFloatScaling8bit, UintQuant
from brevitas.quant.scaled_int import Int8WeightPerChannelFloat
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

from spos_quant.errors import ConfigError
from spos_quant.quant.fused_quant import FusedIntQuant
from spos_quant.quant.scales import (
    ClipScale,
    LearnedScale,
    MeanSigmaStdPerChannel,
    MidRiseQuant,
    OddCodes,
    QMax,
    StatisticalScale,
)
from spos_quant.registry import Registry

Injector = type[Any]
"""A Brevitas dependency-injection class, as its layers accept for `weight_quant=` and `input_quant=`."""

weight_quantizers: Registry[Callable[[int], Injector]] = Registry(
    "weight quantizer", builtin_modules=("spos_quant.quant.quantizers", "spos_quant.quant.least_squares")
)
act_quantizers: Registry[Callable[[int, bool], Injector]] = Registry(
    "activation quantizer", builtin_modules=("spos_quant.quant.quantizers",)
)

# The scale of least squared error for Gaussian weights with 3, 7 and 15 levels is 1.224, 0.651 and 0.353 standard
# deviations [Max1960]. Brevitas computes the clip as mean|w| + sigma * std|w|, which for a Gaussian is
# (0.798 + 0.603 sigma) standard deviations; these sigmas give those scales.
_GAUSSIAN_SIGMA = {2: 0.706, 3: 1.914, 4: 2.78}
# Four levels without zero are best 0.9957 standard deviations apart; the clip is 1.5 times that distance [Max1960].
_MIDRISE_SIGMA = {2: 1.154}


class _Binary(WeightQuantSolver):  # type: ignore[misc]
    """Levels -T and +T with T the mean of |w| per output channel [Rastegari2016]; the float weight is not changed."""

    quant_type = QuantType.BINARY
    scaling_impl = StatisticalScale
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.AVE
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    restrict_scaling_type = RestrictValueType.FP
    scaling_min_val = 1e-10
    signed = True
    narrow_range = True
    bit_width = 1


class PerChannel(Int8WeightPerChannelFloat):  # type: ignore[misc]
    """Symmetric levels per output channel: Brevitas's own quantizer in fewer operations."""

    int_quant = FusedIntQuant
    int_scaling_impl = QMax
    scaling_impl = StatisticalScale


class _UnsignedClip(UintQuant, ParamMinMaxInitScaling, PerTensorFloatScaling8bit, ActQuantSolver):  # type: ignore[misc]
    """2^b levels from 0 to a learned clip T [Choi2018]; T is a parameter from the start and is calibrated later."""

    int_quant = FusedIntQuant
    int_scaling_impl = QMax
    scaling_impl = ClipScale
    min_val = 0.0
    max_val = 6.0
    scaling_min_val = 1e-6


class _SignedClip(IntQuant, ParamMinMaxInitScaling, PerTensorFloatScaling8bit, ActQuantSolver):  # type: ignore[misc]
    """2^b levels from -T to T (2^(b-1) - 1) / 2^(b-1), with a learned clip T."""

    int_quant = FusedIntQuant
    int_scaling_impl = QMax
    scaling_impl = ClipScale
    min_val = -6.0
    max_val = 6.0
    scaling_min_val = 1e-6


class _SignedBinary(ActQuantSolver):  # type: ignore[misc]
    """Levels -T and +T with a learned T: a signed 1-bit activation has no zero."""

    quant_type = QuantType.BINARY
    scaling_impl = ClipScale
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
    """The scale follows mean|w| at 1 bit, the standard deviation at 2 to 4 bits, the maximum above; stateless."""
    if bits not in _GAUSSIAN_SIGMA:
        return absmax(bits)
    return _by_deviation(bits, _GAUSSIAN_SIGMA[bits])


@weight_quantizers.register("midrise")
def midrise(bits: int) -> Injector:
    """`gaussian`, but at 2 bits with all four levels: -3, -1, 1 and 3 times the scale, none at zero; stateless."""
    if bits not in _MIDRISE_SIGMA:
        return gaussian(bits)
    return _let(_by_deviation(bits, _MIDRISE_SIGMA[bits]), int_quant=MidRiseQuant, int_scaling_impl=OddCodes)


@weight_quantizers.register("absmax")
def absmax(bits: int) -> Injector:
    """The clip is the largest |w| of the output channel; mean|w| at 1 bit; stateless."""
    return _let(_Binary) if bits == 1 else _let(PerChannel, bit_width=bits)


@weight_quantizers.register("lsq")
def lsq(bits: int) -> Injector:
    """A learned scale per output channel [Esser2020], initialized to the scale of `gaussian`."""
    return _learned(gaussian(bits), 2 ** (bits - 1) - 1 or 1)


@weight_quantizers.register("lsq-midrise")
def lsq_midrise(bits: int) -> Injector:
    """A learned scale per output channel [Esser2020], initialized to that of `midrise`, with its levels at 2 bits."""
    return _learned(midrise(bits), 2**bits - 1) if bits in _MIDRISE_SIGMA else lsq(bits)


@act_quantizers.register("pact")
def pact(bits: int, signed: bool) -> Injector:
    """A learned clip per tensor [Choi2018]."""
    if not signed:
        return _let(_UnsignedClip, bit_width=bits)
    return _let(_SignedBinary) if bits == 1 else _let(_SignedClip, bit_width=bits)


def _by_deviation(bits: int, sigma: float) -> Injector:
    """The clip is mean|w| + sigma * std|w| of the output channel."""
    return _let(PerChannel, bit_width=bits, scaling_stats_impl=MeanSigmaStdPerChannel, sigma=sigma)


def _learned(base: Injector, largest_code: int) -> Injector:
    """`base` with a learned scale, initialized from the weight statistics of `base`."""
    return _let(base, scaling_impl=LearnedScale, scaling_impl_type=ScalingImplType.PARAMETER, largest_code=largest_code)


def _let(base: Any, **settings: Any) -> Injector:
    made: Injector = base.let(**settings) if settings else base
    return made


def quantizer_pair(name: str) -> tuple[Callable[[int], Injector], Callable[[int, bool], Injector]]:
    """The weight quantizer and the activation quantizer of a name such as `gaussian+pact`.

    Raises:
        ConfigError: not two names joined by `+`, or a name that is not registered (the message has a near match).
    """
    weight, plus, act = name.partition("+")
    if not plus:
        raise ConfigError(f"quantizer {name!r}: expected WEIGHTS+ACTIVATIONS, such as gaussian+pact")
    return weight_quantizers[weight], act_quantizers[act]
