"""Bench stage: retrains bit configurations with one recipe, then exports and measures each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spos_quant.cost.budget import budgets_json
from spos_quant.cost.metrics import formula_metrics
from spos_quant.errors import ConfigError, ExportError
from spos_quant.export.latency import ROUNDS, latencies
from spos_quant.progress import remark
from spos_quant.report import bench_csv
from spos_quant.run_dir import digest, store_json, write_text
from spos_quant.stages.bench_entries import (
    BenchItem,
    Budgets,
    Entry,
    entries,
    needs_supernet,
    parse_items,
    searches,
    shared,
)
from spos_quant.stages.evaluate import measured
from spos_quant.stages.export import export_result, exports, natural_format
from spos_quant.stages.open_run import Options, model_settings, plan_run
from spos_quant.stages.report import write_report
from spos_quant.stages.run import Result, Run
from spos_quant.stages.search import combined_budgets
from spos_quant.stages.train import train_supernet
from spos_quant.stages.trainings import train_all, train_teacher

__all__ = ["bench", "bench_run", "check", "searches"]

FORMAT = "spos-quant/bench/1"
MAX_SEEDS = 1_000
_THREADS = 1
"""CPU threads of a timed call."""


def bench(
    target: str | Path,
    bits: Sequence[str],
    *,
    seeds: int = 1,
    out: str | Path | None = None,
    data: str | None = None,
    seed: int | None = None,
    set: Sequence[str] = (),
    device: str = "auto",
    workers: int = 0,
    export: bool = True,
    show: bool = False,
    **budgets: str | float | Sequence[str | float],
) -> dict[str, Any]:
    """Retrains bit configurations with one recipe, evaluates, exports and measures them; skips finished work.

    Args:
        target: A search space (built in, or a YAML file) or a run directory.
        bits: `w4a4`, `float`, bit configuration files, `random:3` (that many architectures, uniform within each
            budget), a registered searcher such as `knapsack`, or `best` (the evolutionary search).
        seeds: Retrainings per configuration; their seeds count up from the run's seed.
        out: Run directory; None: `runs/<space>`.
        data: Data set; None: that of the space or the run.
        seed: Seed of a new run.
        set: Settings of a new run, for example `["retrain.epochs=5"]`.
        device: `auto`, `cpu` or `cuda`.
        workers: Processes that train one model at a time each; results do not depend on them.
        export: Whether to export each model and time its file. If False, only files of earlier commands are used.
        show: Shows progress on stderr.
        **budgets: `bitops_budget` and so on, one value or a list, for `random:3`, searchers and `best`.

    Returns:
        What `spos-quant bench --json` prints: `run`, `rows`, `seeds` and the paths of the written files.

    Raises:
        SposQuantError: settings, bits or budgets are wrong; raised before any training.
        TypeError: a keyword does not end in `_budget`.
    """
    given: dict[str, list[str] | None] = {}
    for name, value in budgets.items():
        if not name.endswith("_budget"):
            raise TypeError(f"bench() got an unexpected keyword {name!r}; budgets end in _budget")
        several = [value] if isinstance(value, str | int | float) else value
        given[name.removesuffix("_budget")] = [str(text) for text in several]
    options = Options(None if out is None else Path(out), data, seed, tuple(set))
    plan = plan_run(str(target), options)
    limits = combined_budgets(plan.run.table, given)
    words = check(plan.run, bits, limits, seeds)
    with plan.open() as run:
        return bench_run(run, words, limits, seeds=seeds, device=device, show=show, workers=workers, export=export)


def check(run: Run, bits: Sequence[str], budgets: Sequence[Budgets], seeds: int) -> list[BenchItem]:
    """Parses the items of `--bits`. Raises as `parse_items` does, and `ConfigError` for a wrong `seeds`."""
    if not 1 <= seeds <= MAX_SEEDS:
        raise ConfigError(f"--seeds {seeds}: expected 1 to {MAX_SEEDS:,}")
    return parse_items(run, bits, budgets)


def bench_run(
    run: Run,
    words: Sequence[BenchItem],
    budgets: Sequence[Budgets],
    *,
    seeds: int,
    device: str,
    show: bool,
    workers: int = 0,
    ray: str | None = None,
    export: bool = True,
) -> dict[str, Any]:
    """`bench` in a run directory that this process has locked.

    Equal networks with several names are trained once. The first seed's model is that of `retrain`. A model that
    cannot be exported keeps its row, without a file. If `ray` is the address of a Ray cluster, searches evaluate there;
    trainings stay on this machine.

    Returns:
        `run, rows, seeds, path, csv, report, skipped`.
    """
    if needs_supernet(run, words):
        train_supernet(run, device=device, show=show)
    found = shared(entries(run, words, budgets, device=device, show=show, workers=workers, ray=ray))
    train_teacher(run, run.spec.retrain, device=device, show=show)
    numbers = [run.seed + i for i in range(seeds)]
    firsts = list({entry.result.key: entry.result for entry in found}.values())
    todo = [first.with_seed(number) for number in numbers for first in firsts]
    skipped = train_all(run, todo, device=device, show=show, workers=workers)
    refused = {first.key: _export(first, show) if export else None for first in firsts}
    times = _latencies(run, [first for first in firsts if refused[first.key] is None])
    rows = [_row(entry, numbers, times["files"], refused[entry.result.key]) for entry in found]
    made = {
        "format": FORMAT,
        "recipe": model_settings("retrain", run.spec.retrain),
        "seeds": numbers,
        "latency": times,
        "rows": rows,
    }
    store_json(run.bench_path, made)
    csv = run.path / "bench.csv"
    write_text(csv, bench_csv(made))
    return {
        "run": str(run.path),
        "rows": rows,
        "seeds": numbers,
        "path": str(run.bench_path),
        "csv": str(csv),
        "report": write_report(run)["path"],
        "skipped": skipped,
    }


def _export(result: Result, show: bool) -> str | None:
    """Exports a result unless its file exists. Returns the error message if it cannot be exported, else None."""
    if _file(result) is not None:
        return None
    try:
        export_result(result, natural_format(result), show=show)
    except ExportError as error:
        remark(f"{result.key}: {error}")
        return str(error)
    return None


def _latencies(run: Run, results: Sequence[Result]) -> dict[str, Any]:
    """Latencies in ms by result key, measured together; those of the last bench if its files were the same."""
    paths = {result.key: Path(file["path"]) for result in results if (file := _file(result))}
    digests = {key: digest(path) for key, path in paths.items()}
    before = run.bench().get("latency", {})
    if before.get("digests") == digests:
        return dict(before)
    measured_ms = latencies(list(paths.values()), (1, *run.spec.input), threads=_THREADS)
    return {
        "runtime": "onnxruntime, CPU, basic graph optimizations",
        "images": 1,
        "threads": _THREADS,
        "rounds": ROUNDS,
        "digests": digests,
        "files": {key: round(ms, 4) for key, ms in zip(paths, measured_ms, strict=True)},
    }


def _file(result: Result) -> dict[str, Any] | None:
    """The export of a result in its natural format; None if there is none."""
    form = natural_format(result)
    made = (item for item in exports(result) if item["format"] == form and Path(item["path"]).exists())
    return next(made, None)


def _row(entry: Entry, seeds: Sequence[int], times: Mapping[str, float], refused: str | None) -> dict[str, Any]:
    result = entry.result
    cost, file = measured(result), _file(result) or {}
    metrics = [result.with_seed(seed).metrics() for seed in seeds]
    return {
        "bits": entry.bits,
        "key": result.key,
        "budget": budgets_json(list(entry.budgets)) or None,
        **{name: cost[name] for name, metric in formula_metrics().items() if metric.budget},
        "file_bytes": file.get("bytes"),
        "format": file.get("format"),
        "export_error": refused,
        **_statistics("top1", [m["test"]["top1"] for m in metrics]),
        **_statistics("search_val_top1", [m["search_val"]["top1"] for m in metrics]),
        "supernet_top1": entry.supernet_top1,
        "seeds": len(seeds),
        "runs": [{"seed": seed, **m} for seed, m in zip(seeds, metrics, strict=True)],
        "latency_ms": times.get(result.key),
    }


def _statistics(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation (None for a single value)."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {f"{name}_mean": statistics.fmean(values), f"{name}_std": spread}
