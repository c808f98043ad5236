"""`spos-quant latency`: the latency table of a run, measured in onnxruntime or imported from another device."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from spos_quant.cost.budget import cost_range
from spos_quant.cost.latency import LatencyTable, calls, latency_csv, read_latency_csv
from spos_quant.cost.latency_error import accuracy_note, sum_error, with_rest
from spos_quant.cost.metrics import LATENCY
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError
from spos_quant.export.integer.formats import integer_graph
from spos_quant.export.integer.onnx_writer import write_onnx_int8
from spos_quant.export.latency import latencies, layer_latencies
from spos_quant.export.onnx_file import finish
from spos_quant.progress import progress
from spos_quant.quant.onnx import export_float
from spos_quant.run_dir import store
from spos_quant.space.search_space import Architecture, SearchSpace
from spos_quant.stages.models import make_network, scoring_batches
from spos_quant.stages.run import Run
from spos_quant.streams import Stream, generator

NETWORKS = 10
"""Whole networks that the sum over layers is compared with."""
MAX_NETWORKS = 1_000
_IMAGES = 2
"""Images that calibrate integer ranges; the ranges do not affect latency."""
_AT_ONCE = 32
"""Layers whose rounds are interleaved; the table is written after each such group."""
_PASSES = 2
"""Separate timings of each layer and network; the lower median counts, because other load only adds time."""


def template(space: SearchSpace, path: Path) -> int:
    """Writes a table without latencies, to be filled in on another device; returns its number of rows.

    Raises:
        ConfigError: the file cannot be written.
    """
    wanted = calls(space)
    source = LatencyTable(source=f"{space.name} on a device of yours; state the device and the method")
    try:
        path.write_text(latency_csv(source, wanted), "utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    return len(wanted)


def bring(run: Run, path: Path) -> dict[str, Any]:
    """Stores a user's table in the run; searches under a latency budget then run again.

    Raises:
        ConfigError: the table does not exist or lacks a layer of the space.
    """
    found = read_latency_csv(path)
    found.check(run.space, str(path))
    return _store_summary(run, found if found.rest else with_rest(found, run.space), measured=0)


def latency_run(run: Run, *, threads: int, networks: int, show: bool) -> dict[str, Any]:
    """Measures the rows missing from the run's table: layers, then whole networks of random architectures.

    Args:
        run: The run.
        threads: CPU threads of a call.
        networks: Whole networks to compare the sum over layers with.
        show: Whether to show progress.

    Returns:
        `path, source, layers, networks, rest, cheapest, dearest` (the last three in ns), `error` and `accuracy_note` of
        the `LatencyTable`, and `measured`, the number of new rows.
    """
    if not 0 <= networks <= MAX_NETWORKS:
        raise ConfigError(f"--n {networks}: expected 0 to {MAX_NETWORKS:,} networks")
    source = _source(threads)
    table = run.table.latency or LatencyTable(source=source)
    if table.source != source:
        raise ConfigError(
            f"{run.latency_path} was measured elsewhere ({table.source}), here it would be {source}; keep the table, "
            "give another one with --table, or choose another --out"
        )
    missing = table.missing(run.space)
    with progress("layers", _PASSES * len(missing), unit="timings", show=show) as tick:
        for start in [i for _ in range(_PASSES) for i in range(0, len(missing), _AT_ONCE)]:
            some = missing[start : start + _AT_ONCE]
            found = layer_latencies(some, threads=threads)
            best = {call: min(ns, table.layers.get(call, ns)) for call, ns in zip(some, found, strict=True)}
            table = replace(table, layers={**table.layers, **best})
            _store(run, table)
            for _ in some:
                tick("")
    drawn = _draw(run.space, run.seed, networks)
    fresh = [each for each in drawn if run.space.encode(each) not in table.networks]
    if fresh:
        whole = _whole(run, fresh, threads, show)
        table = replace(table, networks={**table.networks, **whole})
    return _store_summary(run, with_rest(table, run.space), measured=len(missing) + len(fresh))


def _draw(space: SearchSpace, seed: int, n: int) -> list[Architecture]:
    """Distinct random architectures; a smaller `n` gives a prefix of a larger one."""
    rng = generator(Stream.TIMED_NETWORKS, seed)
    return list(dict.fromkeys(space.sample(rng) for _ in range(min(n, space.size))))


def _whole(run: Run, architectures: Sequence[Architecture], threads: int, show: bool) -> dict[str, int]:
    """Latencies in ns of whole untrained networks by encoded architecture, measured together."""
    images = next(iter(scoring_batches(run, "search-val")))[0][:_IMAGES]
    with TemporaryDirectory() as folder, progress("networks", len(architectures), unit="networks", show=show) as tick:
        paths = []
        for i, architecture in enumerate(architectures):
            paths.append(Path(folder) / f"{i}.onnx")
            config = run.space.bit_config(architecture)
            network = make_network(run, config, inherited=False, seed=run.seed)
            model = network.subnet((0,) * len(network.space.axes)).eval()
            if run.spec.full_precision:
                with torch.no_grad():
                    export_float(model, images[:1], paths[-1])
                finish(paths[-1], {})
            else:
                write_onnx_int8(integer_graph(model, images), paths[-1], {})
            tick("")
        turns = [latencies(paths, (1, *run.spec.input), threads=threads) for _ in range(_PASSES)]
    texts = map(run.space.encode, architectures)
    return {text: round(1e6 * min(ms)) for text, *ms in zip(texts, *turns, strict=True)}


def _store(run: Run, table: LatencyTable) -> None:
    store(run.latency_path, latency_csv(table).encode("utf-8"))


def _store_summary(run: Run, table: LatencyTable, *, measured: int) -> dict[str, Any]:
    """Writes a table and returns its summary."""
    _store(run, table)
    costs = CostTable(run.space, table)
    cheapest, most_expensive = cost_range(costs, LATENCY)
    return {
        "path": str(run.latency_path),
        "source": table.source,
        "layers": len(table.layers),
        "networks": len(table.networks),
        "rest": table.rest,
        "cheapest": cheapest,
        "dearest": most_expensive,
        "error": sum_error(table, run.space),
        "accuracy_note": accuracy_note(table, run.space),
        "measured": measured,
    }


def _source(threads: int) -> str:
    plural = "" if threads == 1 else "s"
    return f"onnxruntime {version('onnxruntime')}, {_processor()}, {threads} thread{plural}, one image at a time"


def _processor() -> str:
    """The processor's name, or its architecture if the system does not report the name."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return str(names[0]).strip() if names else platform.processor() or platform.machine()
