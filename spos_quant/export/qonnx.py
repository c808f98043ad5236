"""`qonnx`: float operators with `Quant` nodes, for FINN and other QONNX tools; the `qonnx` package executes it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn

from spos_quant.errors import ExportError
from spos_quant.export.api import Format, exporters, require_quantized_layers
from spos_quant.export.onnx_file import complete, layer_name, read_onnx
from spos_quant.export.runtime import Floats
from spos_quant.quant.onnx import quiet


def write_qonnx(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes quantizers as QONNX nodes and weights as float initializers."""
    require_quantized_layers(model)
    with quiet():  # importing Brevitas' exporters warns about optional packages that are missing
        from spos_quant.quant.qonnx import export_qonnx
    midrise_weights = export_qonnx(model, example[:1], path)
    exported = onnx.load(path)
    for node in exported.graph.node:
        layer, _, _ = node.name.partition("_quant/")
        if node.op_type == "Quant" and layer.endswith("/weight") and layer_name(layer) in midrise_weights:
            (narrow,) = (item for item in node.attribute if item.name == "narrow")
            narrow.i = 0  # marks mid-rise weights: only the odd levels occur
    complete(exported, metadata, path)


class QonnxModel:
    """A QONNX file executed node by node by the `qonnx` package.

    Args:
        path: The file.

    Raises:
        ExportError: the `qonnx` package is not installed, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            from qonnx.core import onnx_exec
        except ImportError:
            raise ExportError(
                "QONNX files are checked with the package qonnx, which is not installed; "
                "install it with: pip install 'spos-quant[qonnx]'"
            ) from None
        self._execute = onnx_exec.execute_onnx
        self._path, self._file = path, read_onnx(path)
        self._models: dict[int, Any] = {}

    def __call__(self, x: Floats) -> Floats:
        """Logits `[n, classes]` of preprocessed images `[n, C, H, W]`. Raises `ExportError` if execution fails."""
        images = np.ascontiguousarray(x, dtype=np.float32)
        try:
            if len(images) not in self._models:
                self._models[len(images)] = _with_input_shape(self._file, images.shape)
            model = self._models[len(images)]
            inputs = {model.graph.input[0].name: images}
            with warnings.catch_warnings():  # qonnx warns about shapes that it cannot infer, for example of Pad
                warnings.simplefilter("ignore")
                logits: Floats = self._execute(model, inputs)[model.graph.output[0].name]
        except Exception as error:  # noqa: BLE001 - qonnx, onnx and onnxruntime share no exception base
            shape = "x".join(map(str, images.shape))
            raise ExportError(f"{self._path}: qonnx cannot run it on {shape}: {str(error)[:300]}") from None
        return logits


def _with_input_shape(file: Any, shape: tuple[int, ...]) -> Any:
    """The model with a fixed batch size, which the executor of `qonnx` needs."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(file, make_deepcopy=True)
    model.set_tensor_shape(model.graph.input[0].name, list(shape))
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model.transform(InferShapes())


exporters.register("qonnx")(Format(write_qonnx, "model-qonnx.onnx", open=QonnxModel))
