"""Runs exported files in onnxruntime and compares their logits with those of the model. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spos_quant.errors import ExportError
from spos_quant.run_dir import check

_QONNX_MARK = b"qonnx.custom_op"
"""Every file with QONNX operators contains these bytes."""

Floats = npt.NDArray[np.float32]
LogitFunction = Callable[[Floats], Floats]
"""Maps preprocessed images `[n, C, H, W]` to logits `[n, classes]`."""


def open_session(source: str | bytes, threads: int) -> Any:
    """Opens an onnxruntime CPU session for a file or its bytes. Exceptions of onnxruntime propagate."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Higher levels fuse into 8-bit kernels, which saturate with 8-bit weights on processors without VNNI.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """An ONNX file that onnxruntime executes on the CPU.

    Args:
        path: The file.
        threads: CPU threads per call; 0 is the default of onnxruntime.

    Raises:
        ExportError: onnxruntime cannot load the file, or the file does not have exactly one input.
    """

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        check(path)
        try:
            self._session = open_session(str(path), threads)
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no public base
            if _QONNX_MARK in path.read_bytes():
                raise ExportError(
                    f"{path} has operators of QONNX, which onnxruntime does not know: `spos-quant verify` and the "
                    "package qonnx run it; for onnxruntime export onnx-qcdq, onnx-packed or onnx-int8"
                ) from None
            raise ExportError(f"{path}: onnxruntime cannot load it: {str(error)[:300]}") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ExportError(f"{path} takes {len(inputs)} inputs; expected one, the images")
        self._path, self._input = path, inputs[0].name

    def __call__(self, x: Floats) -> Floats:
        """Logits `[n, classes]` of preprocessed images `[n, C, H, W]`."""
        images = np.ascontiguousarray(x, dtype=np.float32)
        try:
            logits: Floats = self._session.run(None, {self._input: images})[0]
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no public base
            shape = "x".join(map(str, images.shape))
            raise ExportError(f"{self._path}: onnxruntime cannot run it on {shape}: {str(error)[:300]}") from None
        return logits


@dataclass(frozen=True)
class Parity:
    """How far the outputs of a file are from those of the model."""

    max_abs_diff: float
    """Largest absolute difference of a logit."""
    agreement: float
    """Share of equal predicted labels, in [0, 1]; labels are per image, or per pixel for dense outputs."""
    n: int
    """Number of labels compared."""


def compare(pairs: Iterable[tuple[Any, Any]]) -> Parity:
    """The parity of batches of logits `[n, classes, ...]`, given as pairs `(model, file)`."""
    largest, same, n = 0.0, 0, 0
    for of_model, of_file in pairs:
        a, b = np.asarray(of_model, dtype=np.float64), np.asarray(of_file, dtype=np.float64)
        largest = max(largest, float(np.abs(a - b).max()))
        equal = a.argmax(1) == b.argmax(1)
        same += int(equal.sum())
        n += equal.size
    return Parity(largest, same / max(n, 1), n)


def softmax_loss(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Summed cross-entropy in nats."""
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).sum())


def in_batches(items: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `range(items)` in order."""
    return (slice(start, min(start + size, items)) for start in range(0, items, size))
