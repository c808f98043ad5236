"""Computes intermediate tensors of an ONNX model in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from spos_quant.errors import ExportError
from spos_quant.export.integer.graph import Array


def run_with_intermediates(model: Any, tensors: Sequence[str], images: Array) -> list[Array]:
    """The values of tensors on images `[n, C, H, W]`, in the order of `tensors`.

    Args:
        model: An ONNX model with one input.
        tensors: Names of outputs of any nodes.
        images: Preprocessed images, float32.

    Raises:
        ExportError: onnxruntime cannot run the model.
    """
    if not tensors:
        return []
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (model_input,) = session.get_inputs()
        found = session.run(list(tensors), {model_input.name: images})
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no public base
        raise ExportError(f"onnxruntime cannot run the model: {str(error)[:300]}") from None
    return [np.asarray(values) for values in found]
