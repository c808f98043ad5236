"""Many retrainings, one after the other or several at a time: each is made once and judged; the rest is skipped."""

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
from spos_quant.searchers.process_backend import Processes
from spos_quant.searchers.worker_pool import WorkerPool
from spos_quant.stages.evaluate import evaluate_result
from spos_quant.stages.models import FLOAT
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.retrain import given_result, retrain_result
from spos_quant.stages.run import RESULTS, Result, Run

SPLITS = ("search-val", "test")


def train_all(run: Run, results: Sequence[Result], *, device: str, show: bool, workers: int = 0) -> list[str]:
    """Retrains and judges results; what is finished is skipped, what is under way goes on from its checkpoint.

    Every training computes with as many threads as this process, so that workers change no weight.

    Args:
        run: Its supernet is trained where the recipe inherits from it.
        results: What to train: on search-val and test, with their models kept; where they only serve a ranking, on
            search-val alone, and the model goes once it is judged.
        device: `auto`, `cpu` or `cuda`.
        show: Whether progress is shown.
        workers: Processes that train, each one model at a time; 0 trains in this one.

    Returns:
        The places of those that were finished before.
    """
    todo = [result for result in results if not is_judged(result)]
    skipped = [result.place for result in results if is_judged(result)]
    places = [result.place for result in todo]
    if workers and todo:
        _warn_of_threads(min(workers, len(todo)))
        backend = Processes(partial(make_trainer, run.path, device, torch.get_num_threads()), min(workers, len(todo)))
        pool: WorkerPool[str, str] = WorkerPool(backend, doing="training", smaller="retrain.batch_size")
        with pool, progress("train", len(todo), unit="models", show=show) as tick:
            for place in pool(places):
                tick(place)
        return skipped
    for number, result in enumerate(todo, 1):
        if show and len(todo) > 1:
            remark(f"model {number} of {len(todo)}: {result.name}")
        train_and_judge(result, device=device, show=show)
    return skipped


def train_teacher(run: Run, recipe: RetrainConfig, *, device: str, show: bool) -> None:
    """Trains the float model of a run where a recipe has it teach the others and no `weights` give it."""
    if recipe.distill and run.spec.weights is None:
        train_all(run, [given_result(run, FLOAT)], device=device, show=show)


def train_and_judge(result: Result, *, device: str, show: bool) -> None:
    """Retrains a result and scores it on every split that it is judged on."""
    retrain_result(result, device=device, show=show)
    for split in _splits(result):
        evaluate_result(result, split, device=device, show=show)
    if result.subdirectory != RESULTS:
        drop(result.model_path)


def is_judged(result: Result) -> bool:
    """Whether nothing is left to do of a result."""
    kept = result.model_path.exists() or result.subdirectory != RESULTS
    return kept and {split.replace("-", "_") for split in _splits(result)} <= result.metrics().keys()


def _splits(result: Result) -> tuple[str, ...]:
    return SPLITS if result.subdirectory == RESULTS else SPLITS[:1]


def make_trainer(path: Path, device: str, threads: int, number: int) -> Any:
    """What trains in a worker process: takes the places of results, yields them when they are judged.

    Args:
        path: The run directory, which the process that starts the workers owns.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads of a training.
        number: Of the worker; workers are dealt out to the CUDA devices in turn.
    """
    torch.set_num_threads(threads)
    devices = _visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if device != "cpu" and len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]  # before CUDA is looked at here
    run = open_existing(str(path))

    def train(places: Iterable[str]) -> Iterator[str]:
        for place in places:
            train_and_judge(run.at(place), device=device, show=False)
            yield place

    return train


def _visible_devices(named: str | None) -> list[str]:
    """The CUDA devices that a process may use, as it names them."""
    if named is None:
        return [str(i) for i in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",") if name.strip()]


def _warn_of_threads(workers: int) -> None:
    threads, cpus = torch.get_num_threads(), os.cpu_count() or 1
    if workers * threads > cpus:
        remark(
            f"{workers} trainings of {threads} threads each share {cpus} CPUs; fewer threads are faster, and change "
            f"last bits: OMP_NUM_THREADS={max(1, cpus // workers)}"
        )
