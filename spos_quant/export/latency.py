"""Measures the latency of exported files and of single layers in onnxruntime."""

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

    Every round calls each file once, so that other load on the machine affects all files equally.

    Args:
        paths: The files.
        shape: Shape of the input, `[n, C, H, W]`.
        threads: CPU threads per call.
        rounds: Timed calls per file.

    Raises:
        ExportError: onnxruntime cannot load or run a file.
    """
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    models = [OnnxModel(path, threads=threads) for path in paths]
    return [1000 * seconds for seconds in median_seconds([partial(model, x) for model in models], rounds)]


def layer_latencies(layers: Sequence[LayerCall], *, threads: int = 1, rounds: int = ROUNDS) -> list[int]:
    """Median nanoseconds per layer for one image, minus the call overhead of onnxruntime.

    Args:
        layers: The layers to time.
        threads: CPU threads per call.
        rounds: Timed calls per layer; each round calls every layer once.

    Raises:
        ExportError: a layer has no integer form.
    """
    calls = [_call(_IDENTITY, np.zeros((1, 1), np.float32), threads)]
    for layer in layers:
        calls.append(_call(*layer_file(layer.geometry, layer.weight_bits, layer.act_bits), threads))
    overhead, *seconds = median_seconds(calls, rounds)
    return [max(1, round(1e9 * (one - overhead))) for one in seconds]


def _call(file: bytes, x: Array, threads: int) -> Callable[[], Any]:
    session = open_session(file, threads)
    return partial(session.run, None, {session.get_inputs()[0].name: x})


_IDENTITY = helper.make_model(
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
    """Median seconds of each call, after warm-up calls; every round calls each once."""
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
