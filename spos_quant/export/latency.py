"""How long exported files take in onnxruntime, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from spos_quant.export.runtime import OnnxModel

ROUNDS = 50
_WARM_UP = 3


def latencies(paths: Sequence[Path], shape: Sequence[int], *, threads: int = 1, rounds: int = ROUNDS) -> list[float]:
    """Median milliseconds of one call per file.

    Every round calls each file once, so that whatever else the machine does falls on all of them alike.

    Args:
        paths: The files.
        shape: Of what a call takes: `[n, C, H, W]`.
        threads: CPU threads of a call.
        rounds: Calls of each file that are timed.

    Raises:
        ExportError: onnxruntime cannot load or run a file.
    """
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    models = [OnnxModel(path, threads=threads) for path in paths]
    for model in models:
        for _ in range(_WARM_UP):
            model(x)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, taken in zip(models, times, strict=True):
            start = time.perf_counter()
            model(x)
            taken.append(1000 * (time.perf_counter() - start))
    return [median(taken) for taken in times]
