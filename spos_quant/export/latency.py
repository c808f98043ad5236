"""How long exported files, and single layers, take in onnxruntime, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from spos_quant.cost.latency import LayerCall
from spos_quant.export.integer.graph import Array
from spos_quant.export.layer_files import layer_file
from spos_quant.export.runtime import OnnxModel, open_session

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
    return [1000 * seconds for seconds in median_seconds([partial(model, x) for model in models], rounds)]


def layer_latencies(layers: Sequence[LayerCall], *, threads: int = 1, rounds: int = ROUNDS) -> list[int]:
    """Median nanoseconds of one image per layer, less what onnxruntime takes to run nothing.

    Args:
        layers: What to time.
        threads: CPU threads of a call.
        rounds: Calls of each layer that are timed; each round calls every layer once.

    Raises:
        ExportError: a layer that has no integer form.
    """
    calls = [_call(_NOTHING, np.zeros((1, 1), np.float32), threads)]
    for layer in layers:
        calls.append(_call(*layer_file(layer.geometry, layer.weight_bits, layer.act_bits), threads))
    nothing, *seconds = median_seconds(calls, rounds)
    return [max(1, round(1e9 * (one - nothing))) for one in seconds]


def _call(file: bytes, x: Array, threads: int) -> Callable[[], Any]:
    session = open_session(file, threads)
    return partial(session.run, None, {session.get_inputs()[0].name: x})


_NOTHING = helper.make_model(
    helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "nothing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
    ),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
).SerializeToString()


def median_seconds(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Median seconds of each call; every round calls each once, after a few calls to warm up."""
    for call in calls:
        for _ in range(_WARM_UP):
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [median(taken) for taken in times]
