"""`onnx-int8` and `integers`: the integer graph of a model in two files, each held against the NumPy reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor, nn

from spos_quant.errors import ExportError
from spos_quant.export.api import Format, exporters, need_quantized
from spos_quant.export.integer import file, reference
from spos_quant.export.integer.graph import IntegerGraph
from spos_quant.export.integer.lower import lower
from spos_quant.export.integer.onnx_writer import write_onnx_int8
from spos_quant.export.integer.trainable import IntegerNet
from spos_quant.export.onnx_file import finish
from spos_quant.export.runtime import Answers, OnnxModel, compare
from spos_quant.quant.onnx import export_qcdq

FORMATS = ("onnx-int8", "integers")
"""The formats of the integer graph."""
_CHECKED = 64
"""Images that a file is held against the reference on."""
_LARGEST_DIFFERENCE = 1e-5
"""Of a logit, as a share of the largest one where that is above 1: a last layer in float sums in another order."""


def integer_graph(model: nn.Module, images: Tensor) -> IntegerGraph:
    """The integer graph of a plain Brevitas model, in evaluation mode on the CPU.

    Args:
        model: The model; one that was trained in integers gives its own graph.
        images: `[n, C, H, W]`, to choose the steps of tensors by that no layer quantizes.

    Raises:
        ExportError: the model has no integer form; it names the module.
    """
    if isinstance(model, IntegerNet):
        return model.graph()
    need_quantized(model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        finish(path, {}, *export_qcdq(model, images[:1], path))
        return lower(path, images.numpy())


def write_int8(model: nn.Module, examples: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """QLinearConv and its like: runs on the 8-bit kernels of onnxruntime."""
    graph = integer_graph(model, examples)
    write_onnx_int8(graph, path, metadata)
    _check(graph, OnnxModel(path), examples, "onnxruntime")


def write_file(model: nn.Module, examples: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Integers, scales and the graph as safetensors and JSON."""
    graph = integer_graph(model, examples)
    file.write_integers(graph, path, metadata)
    _check(graph, file.IntegerModel(path), examples, "the file")


def _check(graph: IntegerGraph, answers: Answers, examples: Tensor, who: str) -> None:
    """Raises `ExportError` unless a file gives the reference's answers."""
    x = examples[:_CHECKED].numpy()
    ours = reference.run(graph, x)
    found = compare([(ours, answers(x))])
    if found.agreement < 1 or found.max_abs_diff > _LARGEST_DIFFERENCE * max(1.0, float(np.abs(ours).max())):
        raise ExportError(
            f"{who} gives other answers than the integer reference (logits differ by {found.max_abs_diff:.3g}, labels "
            f"agree on {found.agreement:.1%}): please report this, with the processor; the file was not kept"
        )


_HINT = (
    "; integers round what the model does not: end its training in them with --set retrain.fold=0.1, give it more "
    "bits, or use onnx-qcdq"
)
exporters.register("onnx-int8")(Format(write_int8, "model-int8.onnx", hint=_HINT))
exporters.register("integers")(
    Format(
        write_file,
        "model-integers.safetensors",
        open=file.IntegerModel,
        measure=file.measure_integers,
        sizes=file.sizes,
        said=file.read_saved_metadata,
        hint=_HINT,
    )
)
