"""`qonnx`: `Quant` nodes on float operators, for FINN and other readers of QONNX; executed by the `qonnx` package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn

from spos_quant.errors import ExportError
from spos_quant.export.api import Format, exporters, need_quantized
from spos_quant.export.onnx_file import complete, layer_name, read_onnx
from spos_quant.export.runtime import Floats
from spos_quant.quant.onnx import quiet


def write_qonnx(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Quantizers as nodes of the QONNX dialect, weights as float initializers."""
    need_quantized(model)
    with quiet():  # Brevitas warns of what it does not find when its exporters are imported
        from spos_quant.quant.qonnx import export_qonnx
    odd_weights = export_qonnx(model, example[:1], path)
    made = onnx.load(path)
    for node in made.graph.node:
        layer, _, _ = node.name.partition("_quant/")
        if node.op_type == "Quant" and layer.endswith("/weight") and layer_name(layer) in odd_weights:
            (narrow,) = (item for item in node.attribute if item.name == "narrow")
            narrow.i = 0  # which says that the odd levels are all there are
    complete(made, metadata, path)


class QonnxModel:
    """A QONNX file executed node by node by the `qonnx` package.

    Args:
        path: The file.

    Raises:
        ExportError: the package is not installed, or the file cannot be read.
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
        self._sized: dict[int, Any] = {}

    def __call__(self, x: Floats) -> Floats:
        """Logits `[n, classes]` of preprocessed images `[n, C, H, W]`. Raises `ExportError` where it cannot be run."""
        images = np.ascontiguousarray(x, dtype=np.float32)
        try:
            if len(images) not in self._sized:
                self._sized[len(images)] = _of_size(self._file, images.shape)
            model = self._sized[len(images)]
            given = {model.graph.input[0].name: images}
            with warnings.catch_warnings():  # of shapes that it cannot infer beforehand, such as a padding's
                warnings.simplefilter("ignore")
                logits: Floats = self._execute(model, given)[model.graph.output[0].name]
        except Exception as error:  # noqa: BLE001 - of every layer below
            shape = "x".join(map(str, images.shape))
            raise ExportError(f"{self._path}: qonnx cannot run it on {shape}: {str(error)[:300]}") from None
        return logits


def _of_size(file: Any, shape: tuple[int, ...]) -> Any:
    """The model for one batch size, which this executor wants to know."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(file, make_deepcopy=True)
    model.set_tensor_shape(model.graph.input[0].name, list(shape))
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model.transform(InferShapes())


exporters.register("qonnx")(Format(write_qonnx, "model-qonnx.onnx", open=QonnxModel))
