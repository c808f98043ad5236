"""`spos-quant predict`: predictions of an exported file in onnxruntime; loads neither torch nor Brevitas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spos_quant.data import DataSet, Preprocessing, batch, load_data, preprocess_files
from spos_quant.data.arrays import Labels
from spos_quant.errors import DataError, ExportError
from spos_quant.export.onnx_file import read_metadata
from spos_quant.export.runtime import Floats, LogitFunction, OnnxModel, in_batches, softmax_loss

_BATCH = 256
FileMetadata = tuple[Preprocessing, Sequence[str]]
"""Metadata of a file: the preprocessing of images and the class names."""


def predict_split(path: Path, source: str, split: str, seed: int) -> dict[str, Any]:
    """`top1, loss, n, split` of a file on a data set, with the preprocessing of the file's metadata."""
    file_metadata = parse_metadata(path, read_metadata(path))
    preprocessing, classes = file_metadata
    data = load_data(source, input=preprocessing.input, classes=len(classes), seed=seed)
    right, loss, n = 0, 0.0, 0
    for logits, y in split_answers(OnnxModel(path), path, file_metadata, data, split):
        right += int((logits.argmax(1) == y).sum())
        loss += softmax_loss(logits, y)
        n += len(y)
    return {"top1": right / n, "loss": loss / n, "n": n, "split": split}


def split_answers(
    model: LogitFunction, path: Path, file_metadata: FileMetadata, data: DataSet, split: str
) -> Iterator[tuple[Floats, Labels]]:
    """Logits `[N, classes]` and labels `[N]` per batch of a split, with the preprocessing of the file's metadata.

    Raises:
        DataError: the data has other classes than the file.
        ExportError: the logits have a wrong shape or are not finite.
    """
    preprocessing, classes = file_metadata
    if tuple(data.classes) != tuple(classes):
        raise DataError(f"{data.name} has the classes {_few(data.classes)}, the model was trained on {_few(classes)}")
    part = data.split(split)
    for chosen in in_batches(len(part), _BATCH):
        x, y = batch(part, range(chosen.start, chosen.stop), preprocessing, None, 0)
        yield _logits(model, x, path, classes), y


def predict_images(path: Path, images: Sequence[Path]) -> dict[str, Any]:
    """`predictions`: per image `image, class, probability` and `top`, the five most likely classes in order."""
    preprocessing, classes = parse_metadata(path, read_metadata(path))
    model = OnnxModel(path)
    predictions = []
    for chosen in in_batches(len(images), _BATCH):
        part = images[chosen]
        logits = _logits(model, preprocess_files(part, preprocessing), path, classes).astype(np.float64)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        odds /= odds.sum(1, keepdims=True)
        for image, p in zip(part, odds, strict=True):
            best = np.argsort(-p)[:5].tolist()
            predictions.append(
                {
                    "image": str(image),
                    "class": classes[best[0]],
                    "probability": float(p[best[0]]),
                    "top": [{"class": classes[i], "probability": float(p[i])} for i in best],
                }
            )
    return {"predictions": predictions}


def parse_metadata(path: Path, metadata: Mapping[str, Any]) -> FileMetadata:
    """Preprocessing and class names from a file's metadata. Raises `ExportError` if they are missing or invalid."""
    classes = metadata.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ExportError(f"{path} names no classes; export it with `spos-quant export`")
    try:
        return Preprocessing.from_dict(metadata.get("preprocessing")), classes
    except DataError as error:
        raise ExportError(f"{path}: {error}; export it with `spos-quant export`") from None


def _logits(model: LogitFunction, x: Floats, path: Path, classes: Sequence[str]) -> Floats:
    """The logits of a batch; raises `ExportError` unless they are finite, one per image and class."""
    logits = model(x)
    if logits.shape != (len(x), len(classes)) or not np.isfinite(logits).all():
        what = f"numbers of shape {list(logits.shape)}" if np.isfinite(logits).all() else "NaN or infinity"
        raise ExportError(
            f"{path} answers {len(x)} images with {what}; expected a finite number for each of {len(classes)} classes"
        )
    return logits


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, ... ({len(names)})" if len(names) > 5 else shown
