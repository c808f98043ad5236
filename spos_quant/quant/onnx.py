"""Brevitas's QCDQ exporter, with exact replacements for the quantizers that it rejects.

It rejects 1 bit, and codes that are not consecutive integers. The levels of weights without a zero (1 bit; mid-rise)
are the odd levels of a quantizer with a zero and one extra bit, which replaces theirs.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import Tensor, nn

from spos_quant.errors import ExportError
from spos_quant.quant.quantizers import act_quantizers, lsq
from spos_quant.quant.scales import MidRiseQuant
from spos_quant.quant.static import read_bits, read_signed

OPSET = 17


def export_float(model: nn.Module, example: Tensor, path: Path) -> None:
    """Writes a model as ONNX with float operators and a dynamic batch size."""
    with quiet(), torch.no_grad():
        torch.onnx.export(model.eval(), (example,), str(path), dynamo=False, opset_version=OPSET, **free_batch())


def export_qcdq(model: nn.Module, example: Tensor, path: Path, *, opset: int = OPSET) -> tuple[set[str], set[str]]:
    """Writes a Brevitas model as ONNX in QCDQ form: INT8 initializers, quantize - clip - dequantize chains.

    Integer initializers need the TorchScript exporter (upstream issue 1543).

    Returns:
        Names of the layers whose weights have no zero, and of those whose input is 1 bit. Their chains in the file have
        one extra bit until the caller narrows them.

    Raises:
        ExportError: a signed 1-bit activation, which has no QCDQ form.
    """
    with quiet():
        from brevitas.export import export_onnx_qcdq

        stand_in, midrise_weights, binary_inputs = with_stand_ins(model)
        with torch.no_grad():
            export_onnx_qcdq(
                stand_in.eval(), args=example, export_path=str(path), opset_version=opset, dynamo=False, **free_batch()
            )
    return midrise_weights, binary_inputs


def free_batch() -> dict[str, Any]:
    """Arguments of torch's exporter for one input and one output with a dynamic batch size."""
    free = {0: "n"}
    return {
        "input_names": ["input"],
        "output_names": ["logits"],
        "dynamic_axes": {"input": free, "logits": free},
    }


def with_stand_ins(model: nn.Module, *, binary: bool = False) -> tuple[nn.Module, set[str], set[str]]:
    """A copy that computes the same with quantizers that Brevitas can export, and the layers changed.

    Args:
        model: Is not changed.
        binary: Whether the exporter can write 1 bit itself.

    Returns:
        The copy, the names of the layers with a replaced weight quantizer, and those with a replaced input quantizer.
    """
    made = copy.deepcopy(model)
    weights, inputs = set(), set()
    replaced: dict[int, Any] = {}
    for name, layer in made.named_modules():
        if not isinstance(layer, QuantLayer):
            continue
        weight_bits, act_bits = read_bits(layer)
        if weight_bits is not None and _has_no_zero(layer, weight_bits) and not (binary and weight_bits == 1):
            weights.add(name)
            _replace_weight_quantizer(layer, weight_bits)
        if act_bits == 1 and not binary:
            inputs.add(name)
            layer.input_quant = _two_bit_input(name, layer, replaced)
    return made, weights, inputs


def _has_no_zero(layer: Any, weight_bits: int) -> bool:
    return weight_bits == 1 or isinstance(layer.weight_quant.tensor_quant.int_quant, MidRiseQuant)


def _replace_weight_quantizer(layer: Any, weight_bits: int) -> None:
    """Gives a layer a quantizer with one extra bit and the same scale, and its quantized weight as the weight."""
    quantized = layer.quant_weight()
    layer.weight.data = quantized.value.detach()
    # The quantizer tracks the layer that it was made in, so that layer gets the same weight.
    host = type(layer)(**_arguments(layer), weight_quant=lsq(weight_bits + 1))
    host.weight.data = layer.weight.data
    (scales,) = host.weight_quant.parameters()
    scales.data.copy_(quantized.scale.detach().flatten())
    layer.weight_quant = host.weight_quant


def _two_bit_input(name: str, layer: Any, replaced: dict[int, Any]) -> Any:
    """A 2-bit input quantizer with the scale of the 1-bit one; its two upper levels are clipped in the file."""
    if read_signed(layer):
        raise ExportError(
            f"layer {name!r} has a signed 1-bit input, which QCDQ cannot hold; give it at least 2 activation bits"
        )
    key = id(layer.input_quant)
    if key not in replaced:
        (clip,) = layer.input_quant.parameters()
        host = type(layer)(**_arguments(layer), weight_quant=None, input_quant=act_quantizers["pact"](2, False))
        (wide,) = host.input_quant.parameters()
        wide.data.copy_(clip.data.abs() * 3)
        replaced[key] = host.input_quant
    return replaced[key]


def _arguments(layer: Any) -> dict[str, Any]:
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features, "bias": False}
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": layer.kernel_size,
        "groups": layer.groups,
        "bias": False,
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the exporters' deprecation warnings, graphs and tracebacks of optional passes.

    Raises:
        ExportError: torch's exporter does not support an operation.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    # A private function; but torch prints the whole graph of a model that it cannot export, even with verbose off.
    with warnings.catch_warnings(), patch.object(torch._C, "_jit_onnx_log", lambda *_: None, create=True):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        except torch.onnx.errors.OnnxExporterError as error:
            why = str(error).strip().splitlines()[0]
            raise ExportError(f"torch's ONNX exporter cannot write this model: {why[:200]}") from None
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
