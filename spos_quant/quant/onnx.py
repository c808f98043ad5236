"""Brevitas's QCDQ exporter, with the 1-bit quantizers that it refuses written through exact stand-ins."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import Tensor, nn

from spos_quant.errors import ExportError
from spos_quant.quant.quantizers import absmax, act_quantizers
from spos_quant.quant.static import read_bits, read_signed

OPSET = 17


def export_float(model: nn.Module, example: Tensor, path: Path) -> None:
    """Writes a model as ONNX with float operators and a free batch size."""
    with _quiet(), torch.no_grad():
        torch.onnx.export(model.eval(), (example,), str(path), dynamo=False, opset_version=OPSET, **_names())


def export_qcdq(model: nn.Module, example: Tensor, path: Path) -> tuple[set[str], set[str]]:
    """Writes a Brevitas model as ONNX in QCDQ form: INT8 initializers, quantize - clip - dequantize chains.

    Integer initializers need the TorchScript exporter (upstream issue 1543).

    Returns:
        Names of the layers whose weights, and of those whose input, are 1 bit: their chains say 2 bits until the
        caller narrows them.

    Raises:
        ExportError: a signed 1-bit activation, which has no QCDQ form.
    """
    with _quiet():
        from brevitas.export import export_onnx_qcdq

        stand_in, binary_weights, binary_inputs = _without_binary(model)
        with torch.no_grad():
            export_onnx_qcdq(
                stand_in.eval(), args=example, export_path=str(path), opset_version=OPSET, dynamo=False, **_names()
            )
    return binary_weights, binary_inputs


def _names() -> dict[str, Any]:
    free = {0: "n"}
    return {
        "input_names": ["input"],
        "output_names": ["logits"],
        "dynamic_axes": {"input": free, "logits": free},
    }


def _without_binary(model: nn.Module) -> tuple[nn.Module, set[str], set[str]]:
    """A copy that computes the same with 2-bit quantizers in place of the 1-bit ones, and the layers concerned."""
    made = copy.deepcopy(model)
    weights, inputs = set(), set()
    replaced: dict[int, Any] = {}
    for name, layer in made.named_modules():
        if not isinstance(layer, QuantLayer):
            continue
        weight_bits, act_bits = read_bits(layer)
        if weight_bits == 1:
            weights.add(name)
            # Two levels -T and T are the outer two of three: the largest magnitude of the row is exactly T.
            layer.weight.data = layer.quant_weight().value.detach()
            # The quantizer tracks the layer that it was made in, which therefore gets the same weight.
            host = type(layer)(**_arguments(layer), weight_quant=absmax(2))
            host.weight.data = layer.weight.data
            layer.weight_quant = host.weight_quant
        if act_bits == 1:
            inputs.add(name)
            layer.input_quant = _two_bit_input(name, layer, replaced)
    return made, weights, inputs


def _two_bit_input(name: str, layer: Any, replaced: dict[int, Any]) -> Any:
    """A 2-bit input quantizer with the step of the 1-bit one; its two upper levels are cut off in the file."""
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
def _quiet() -> Iterator[None]:
    """Keeps the exporters' deprecation notes and tracebacks of optional steps off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
