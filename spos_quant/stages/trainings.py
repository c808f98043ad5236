"""Many retrainings, sequential or in parallel processes: each is done once and scored; finished ones are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spos_quant.config import RetrainConfig
from spos_quant.progress import progress, remark
from spos_quant.run_dir import drop
from spos_quant.searchers.process_backend import ProcessBackend
from spos_quant.searchers.worker_pool import WorkerPool
from spos_quant.stages.evaluate import evaluate_result
from spos_quant.stages.models import FLOAT
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.retrain import retrain_result, user_result
from spos_quant.stages.run import RESULTS, Result, Run

SPLITS = ("search-val", "test")


def train_all(run: Run, results: Sequence[Result], *, device: str, show: bool, workers: int = 0) -> list[str]:
    """Retrains and scores results; skips finished ones and resumes unfinished ones from their checkpoints.

    Every training uses as many threads as this process, so weights do not depend on `workers`.

    Args:
        run: The run; its supernet must be trained if the recipe inherits from it.
        results: Results to train. They are scored on search-val and test and keep their models; results of a ranking
            are scored on search-val only, and their models are deleted afterwards.
        device: `auto`, `cpu` or `cuda`.
        show: Whether to show progress.
        workers: Processes that train one model at a time each; 0 trains in this process.

    Returns:
        The paths (`Result.place`) of results that were finished before.
    """
    todo = [result for result in results if not is_finished(result)]
    skipped = [result.place for result in results if is_finished(result)]
    places = [result.place for result in todo]
    if workers and todo:
        _warn_of_threads(min(workers, len(todo)))
        backend = ProcessBackend(
            partial(make_trainer, run.path, device, torch.get_num_threads()), min(workers, len(todo))
        )
        pool: WorkerPool[str, str] = WorkerPool(backend, doing="training", smaller="retrain.batch_size")
        with pool, progress("train", len(todo), unit="models", show=show) as tick:
            for place in pool(places):
                tick(place)
        return skipped
    for number, result in enumerate(todo, 1):
        if show and len(todo) > 1:
            remark(f"model {number} of {len(todo)}: {result.name}")
        train_and_score(result, device=device, show=show)
    return skipped


def train_teacher(run: Run, recipe: RetrainConfig, *, device: str, show: bool) -> None:
    """Trains the float model of a run if a recipe distills from it and the space has no `weights`."""
    if recipe.distill and run.spec.weights is None:
        train_all(run, [user_result(run, FLOAT)], device=device, show=show)


def train_and_score(result: Result, *, device: str, show: bool) -> None:
    """Retrains a result and scores it on its splits."""
    retrain_result(result, device=device, show=show)
    for split in _splits(result):
        evaluate_result(result, split, device=device, show=show)
    if result.subdirectory != RESULTS:
        drop(result.model_path)


def is_finished(result: Result) -> bool:
    """Whether a result is retrained and scored on all its splits."""
    kept = result.model_path.exists() or result.subdirectory != RESULTS
    return kept and {split.replace("-", "_") for split in _splits(result)} <= result.metrics().keys()


def _splits(result: Result) -> tuple[str, ...]:
    return SPLITS if result.subdirectory == RESULTS else SPLITS[:1]


def make_trainer(path: Path, device: str, threads: int, number: int) -> Any:
    """Makes the function that trains in a worker process: takes paths of results, yields each once it is scored.

    Args:
        path: The run directory, locked by the process that starts the workers.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads of a training.
        number: Index of the worker; workers are assigned to the CUDA devices round-robin.
    """
    torch.set_num_threads(threads)
    devices = _visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if device != "cpu" and len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]  # before CUDA is initialised here
    run = open_existing(str(path))

    def train(places: Iterable[str]) -> Iterator[str]:
        for place in places:
            train_and_score(run.at(place), device=device, show=False)
            yield place

    return train


def _visible_devices(named: str | None) -> list[str]:
    """The CUDA devices visible to this process, as named in `CUDA_VISIBLE_DEVICES`."""
    if named is None:
        return [str(i) for i in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",") if name.strip()]


def _warn_of_threads(workers: int) -> None:
    threads, cpus = torch.get_num_threads(), os.cpu_count() or 1
    if workers * threads > cpus:
        remark(
            f"{workers} trainings of {threads} threads each share {cpus} CPUs; fewer threads are faster, but change "
            f"the last bits of results: OMP_NUM_THREADS={max(1, cpus // workers)}"
        )
