"""Integer weights, biases and scales of layers, from the quantization parameters of their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from spos_quant.errors import ExportError
from spos_quant.export.integer.float_graph import Step
from spos_quant.export.integer.graph import Array, Layer, QuantParams, Window

SAFE_WEIGHT = 64
"""Two products of 8-bit inputs and larger weights overflow the 16-bit sums of x86 processors without VNNI."""
_LARGEST_WEIGHT = 127
_LARGEST_SUM = 2**31 - 1
_EXACT_SUM = 2**24 - 1
_WIDE_INPUT = 1023
"""Largest code of images that a first layer reads if it was kept float."""
_WIDE_WEIGHT = 2**15 - 1


def largest_weight(inputs: QuantParams) -> int:
    """The largest weight for which the sum of two products fits 16 bits, so that no processor overflows."""
    return _LARGEST_WEIGHT if 2 * inputs.qmax * _LARGEST_WEIGHT < 2**15 else SAFE_WEIGHT


def integer_layer(step: Step, inputs: QuantParams, common: dict[str, Any]) -> Layer:
    """A quantized layer with its BatchNorm folded in.

    Args:
        step: The layer, with integer weight, scale per output channel and real bias.
        inputs: Quantization parameters of its input.
        common: The fields that all operations have.
    """
    attributes = step.attributes
    qmax = _MIDRISE_QMAX[attributes["bits"]] if attributes["odd"] else 2 ** (attributes["bits"] - 1) - 1
    weight = attributes["weight"].astype(np.int16)
    factor = max(1, largest_weight(inputs) // max(qmax, int(np.abs(weight).max(initial=1))))
    scale = (attributes["scale"] / factor).astype(np.float32)
    weight, scale, bias = _with_bias(step.name, weight, factor, scale, attributes["bias"], inputs, common["qparams"])
    return Layer(
        **common,
        weight=weight.astype(np.int8),
        factor=factor,
        scale=scale,
        bias=bias,
        window=attributes["window"],
        groups=attributes["groups"],
        weight_bits=attributes["bits"],
        act_bits=inputs.qmax.bit_length(),
    )


_MIDRISE_QMAX = {1: 1, 2: 3}
"""Weight bits -> largest code of mid-rise weights."""


def standalone_batch_norm(step: Step, inputs: QuantParams, common: dict[str, Any]) -> Layer:
    """A BatchNorm that no layer can absorb, as a depthwise 1x1 convolution."""
    shape = step.attributes["shape"]
    if len(shape) != 4:
        raise ExportError(f"module {step.name!r}: a factor per channel of anything but images has no integer form here")
    channels = shape[1]
    factor, shift = (np.broadcast_to(step.attributes[key], channels).astype(np.float64) for key in ("factor", "shift"))
    weight = (SAFE_WEIGHT * np.sign(factor)).astype(np.int16).reshape(-1, 1, 1, 1)
    scale = (np.where(factor == 0, 1.0, np.abs(factor)) / SAFE_WEIGHT).astype(np.float32)
    weight, scale, bias = _with_bias(step.name, weight, 1, scale, shift, inputs, common["qparams"])
    return Layer(
        **common, weight=weight.astype(np.int8), factor=1, scale=scale, bias=bias, window=Window(), groups=channels,
        weight_bits=8, act_bits=inputs.qmax.bit_length(), layer=False,
    )  # fmt: skip


def _with_bias(
    name: str, weight: Array, factor: int, scale: Array, shift: Array, inputs: QuantParams, outputs: QuantParams | None
) -> tuple[Array, Array, Array]:
    """Weights, scales and int32 biases; a channel that hardly depends on its input becomes constant.

    BatchNorm may scale a channel to almost zero. Its bias, in units of that scale, then overflows 32 bits.
    """
    unit = np.float64(np.float32(inputs.scale)) * scale.astype(np.float64)
    largest_input = max(inputs.qmax - inputs.zero_point, inputs.zero_point - inputs.qmin)
    largest_sum = factor * np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(1) * largest_input
    bias = np.rint(shift / unit)
    overflows = np.abs(bias) + largest_sum > _LARGEST_SUM
    if overflows.any():
        output_scale = np.inf if outputs is None else outputs.scale
        variable = overflows & (largest_sum * unit > output_scale / 2)
        if variable.any():
            raise ExportError(
                f"layer {name!r}: channel {int(np.argmax(variable))} has a bias of {shift[np.argmax(variable)]:.3g}, "
                "which overflows 32 bits at the scale of its weights; train it further, or use --format onnx-qcdq"
            )
        weight = weight.copy()
        weight[overflows] = 0
        scale = np.where(overflows, np.maximum(np.abs(shift), 1e-30) / inputs.scale / 2**20, scale).astype(np.float32)
        unit = np.float64(np.float32(inputs.scale)) * scale.astype(np.float64)
        bias = np.rint(shift / unit)
    return weight, scale, bias.astype(np.int32)


def float_first_qparams(peak: float) -> QuantParams:
    """Quantization parameters of images that a first layer reads if it was kept float."""
    return QuantParams(float(np.float32(peak / _WIDE_INPUT)), 0, -_WIDE_INPUT, _WIDE_INPUT)


def float_first_layer(step: Step, inputs: QuantParams, common: dict[str, Any]) -> Layer:
    """A first layer that was kept float, in integers of up to 16 bits whose sums are exact in float32.

    Float sums depend on the order of summation, which may change the code that a sum rounds to. Sums of integers below
    2^24 do not: every float convolution computes them exactly.
    """
    real, shift = step.attributes["weight"].astype(np.float64), step.attributes["bias"]
    rows = np.abs(real).reshape(len(real), -1)
    # Rounding adds at most 0.5 to every integer weight.
    slack = _EXACT_SUM - inputs.qmax * (0.5 * rows.shape[1] + 1)
    if slack < _EXACT_SUM / 2:
        raise ExportError(
            f"layer {step.name!r} sums {rows.shape[1]} products, too many for a float first layer in integer formats; "
            "give it bits: leave it out of keep_float"
        )
    need = rows.sum(1) * inputs.qmax + np.abs(shift) / inputs.scale
    # Integer training changes the bias: a tenth of the slack is left for it.
    scale = np.maximum(need / (0.9 * slack), rows.max(1) / _WIDE_WEIGHT)
    scale = np.nextafter(np.where(scale > 0, scale, 1.0).astype(np.float32), np.float32(np.inf))
    exact_scale = scale.astype(np.float64)
    weight = np.rint(real / exact_scale.reshape(-1, *[1] * (real.ndim - 1))).astype(np.int16)
    bias = np.rint(shift / (np.float64(np.float32(inputs.scale)) * exact_scale)).astype(np.int32)
    return Layer(
        **common, weight=weight, factor=1, scale=scale, bias=bias, window=step.attributes["window"],
        groups=step.attributes["groups"], weight_bits=None, act_bits=None,
    )  # fmt: skip
