"""`onnx-int8` and `integers`: two formats of the integer graph, both checked against the NumPy reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor, nn

from spos_quant.errors import ExportError
from spos_quant.export.api import Format, exporters, require_quantized_layers
from spos_quant.export.integer import file, reference
from spos_quant.export.integer.graph import IntegerGraph
from spos_quant.export.integer.lower import lower
from spos_quant.export.integer.onnx_writer import write_onnx_int8
from spos_quant.export.integer.trainable import IntegerNet
from spos_quant.export.onnx_file import finish
from spos_quant.export.runtime import LogitFunction, OnnxModel, compare
from spos_quant.quant.onnx import export_qcdq

FORMATS = ("onnx-int8", "integers")
"""Formats that store the integer graph."""
_CHECKED = 64
"""Number of images on which a file is checked against the reference."""
_LARGEST_DIFFERENCE = 1e-5
"""Of a logit, relative to the largest logit if that is above 1; a float last layer may sum in another order."""


def integer_graph(model: nn.Module, images: Tensor) -> IntegerGraph:
    """The integer graph of a plain Brevitas model, in evaluation mode on the CPU.

    Args:
        model: The model; an `IntegerNet` returns its own graph.
        images: Calibration images `[n, C, H, W]` for the scales of tensors that no layer quantizes.

    Raises:
        ExportError: the model has no integer form; the message names the module.
    """
    if isinstance(model, IntegerNet):
        return model.graph()
    require_quantized_layers(model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        finish(path, {}, *export_qcdq(model, images[:1], path))
        return lower(path, images.numpy())


def write_int8(model: nn.Module, examples: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes ONNX with QLinearConv and similar operators, which run on the 8-bit kernels of onnxruntime."""
    graph = integer_graph(model, examples)
    write_onnx_int8(graph, path, metadata)
    _check(graph, OnnxModel(path), examples, "onnxruntime")


def write_file(model: nn.Module, examples: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes integers and scales as safetensors, with the graph as JSON."""
    graph = integer_graph(model, examples)
    file.write_integers(graph, path, metadata)
    _check(graph, file.IntegerModel(path), examples, "the file")


def _check(graph: IntegerGraph, answers: LogitFunction, examples: Tensor, who: str) -> None:
    """Raises `ExportError` unless a file gives the outputs of the reference."""
    x = examples[:_CHECKED].numpy()
    expected = reference.run(graph, x)
    parity = compare([(expected, answers(x))])
    if parity.agreement < 1 or parity.max_abs_diff > _LARGEST_DIFFERENCE * max(1.0, float(np.abs(expected).max())):
        raise ExportError(
            f"{who} gives other logits than the integer reference (largest difference {parity.max_abs_diff:.3g}, "
            f"{parity.agreement:.1%} equal labels): please report this, with the processor; the file was not kept"
        )


_HINT = (
    "; this format also quantizes tensors that the model keeps in float: end the training in integers with "
    "--set retrain.fold=0.1, use more bits, or use onnx-qcdq"
)
exporters.register("onnx-int8")(Format(write_int8, "model-int8.onnx", hint=_HINT))
exporters.register("integers")(
    Format(
        write_file,
        "model-integers.safetensors",
        open=file.IntegerModel,
        measure=file.measure_integers,
        sizes=file.sizes,
        metadata=file.read_integers_metadata,
        hint=_HINT,
    )
)
