"""`--dry-run`: work and approximate time of a command, from a few measured steps; writes nothing."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from spos_quant.backbones.build import build
from spos_quant.config import TrainConfig
from spos_quant.cost.budget import cost_range
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.sensitivity import Perturbations, has_gradient
from spos_quant.searchers.base import searchers
from spos_quant.searchers.evaluators import SupernetEvaluator, ThreadLimit
from spos_quant.stages.models import gradient_batches, recalibration_batches, scoring_batches
from spos_quant.stages.rerank import places
from spos_quant.stages.run import Run
from spos_quant.stages.search import metric_of, problem_of
from spos_quant.stages.search_request import Request
from spos_quant.streams import Stream, generator
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.batches import TrainingBatches
from spos_quant.train.devices import make_fabric
from spos_quant.train.fisher import fisher_sensitivity
from spos_quant.train.loop import Training, fit
from spos_quant.train.paths import PathSampler, Step, make_sampler

_STEPS = 4


@dataclass(frozen=True)
class Trainings:
    """Models that a command trains in addition to the supernet."""

    count: int
    recipe: TrainConfig
    judged: int = 0
    """Number of them that are evaluated in the supernet first."""


def estimate(
    run: Run, requests: list[Request], *, workers: int = 0, trainings: Trainings | None = None
) -> dict[str, Any]:
    """`space, size, metric, range, budgets` and `stages`: units of work and seconds of each stage.

    Seconds come from a few training steps and evaluations on this machine's CPU.
    """
    metric = metric_of(run, requests[0].budgets if requests else ())
    supernet = build(run.space, seed=run.seed)
    steps = TrainingBatches(run.data, run.spec.train.batch_size, run.seed)
    sampler = make_sampler(run.spec.train, run.table, run.seed)
    per_step = _seconds_per_step(run, supernet, sampler)
    per_path = per_step / max(1, len(sampler.draw(0).architectures))
    stages = [_stage("train", run.spec.train, steps, per_step)]
    parallel = max(1, min(workers, os.cpu_count() or 1))
    planned = [searchers[request.searcher](problem_of(run, request)).planned for request in requests]
    evaluations = sum(planned) + (0 if trainings is None else trainings.judged)
    if evaluations:
        each = _seconds_per_evaluation(run, supernet) / parallel
        name = "search" if requests else "evaluate"
        stages.append({"stage": name, "units": evaluations, "unit": "architectures", "seconds": evaluations * each})
        finalists = sum(min(places(run), count) for count in planned)
        if finalists:
            seconds = finalists * each * _images(run, all_images=True) / _images(run, all_images=False)
            stages.append({"stage": "finalists", "units": finalists, "unit": "architectures", "seconds": seconds})
    if trainings is not None and trainings.judged and has_gradient(run.space):
        stages.append({"stage": "sensitivity (gradient)", **_gradients(run, supernet)})
    if trainings is not None:
        batches = TrainingBatches(run.data, trainings.recipe.batch_size, run.seed)
        one = _stage(f"retrain ({trainings.count:,} models)", trainings.recipe, batches, per_path / parallel)
        stages.append({**one, "units": one["units"] * trainings.count, "seconds": one["seconds"] * trainings.count})
    elif requests:
        retrain = TrainingBatches(run.data, run.spec.retrain.batch_size, run.seed)
        stages.append(_stage("retrain (each model)", run.spec.retrain, retrain, per_path))
    return {
        "space": run.space.name,
        "size": run.space.size,
        "metric": metric,
        "range": list(cost_range(run.table, metric)),
        "budgets": [
            {"key": request.key, "share": FeasibleSampler(run.table, request.budgets).share} for request in requests
        ],
        "stages": stages,
    }


def estimate_sensitivity(run: Run, kind: str, *, workers: int = 0) -> dict[str, Any]:
    """What `estimate` returns, for the supernet training and the sensitivities."""
    supernet = build(run.space, seed=run.seed)
    if kind == "measured":
        units = len(Perturbations(run.table).architectures)
        seconds = units * _seconds_per_evaluation(run, supernet) / max(1, min(workers, os.cpu_count() or 1))
        stage = {"units": units, "unit": "architectures", "seconds": seconds}
    else:
        stage = _gradients(run, supernet)
    found = estimate(run, [])
    return {**found, "stages": [*found["stages"], {"stage": f"sensitivity ({kind})", **stage}]}


def _gradients(run: Run, supernet: Supernet) -> dict[str, Any]:
    batches = gradient_batches(run)
    first = [next(iter(batches))]
    start = time.perf_counter()
    fisher_sensitivity(supernet, first)
    return {"units": batches.count, "unit": "batches", "seconds": batches.count * (time.perf_counter() - start)}


def _images(run: Run, *, all_images: bool) -> int:
    """Images of one evaluation: BatchNorm recalibration and scoring."""
    return recalibration_batches(run).images + scoring_batches(run, "search-val", all_images=all_images).images


def _stage(name: str, config: TrainConfig, steps: TrainingBatches, per_step: float) -> dict[str, Any]:
    count = config.steps(steps.per_epoch)
    return {"stage": name, "units": count, "unit": "steps", "seconds": count * per_step}


def _seconds_per_step(run: Run, supernet: Supernet, sampler: PathSampler) -> float:
    # Always `_STEPS` measured steps, even if the configured training is shorter.
    config = run.spec.train.model_copy(update={"iterations": _STEPS + 1, "devices": 1, "num_nodes": 1})
    times: list[float] = []

    class _Enough(Exception):
        """Ends the training after a few steps."""

    def paths(step: int) -> Step:
        times.append(time.perf_counter())
        if len(times) > _STEPS:
            raise _Enough
        return sampler.draw(step)

    with suppress(_Enough):
        fit(make_fabric(config, "cpu"), supernet, Training(run.data, config, run.seed, "", False), paths=paths)
    return float(np.median(np.diff(times)))


def _seconds_per_evaluation(run: Run, supernet: Supernet) -> float:
    evaluator = SupernetEvaluator(supernet, recalibration_batches(run), scoring_batches(run, "search-val"))
    evaluate = ThreadLimit(evaluator, run.spec.search.threads)
    times = []
    for number in range(3):
        start = time.perf_counter()
        list(evaluate([run.space.sample(generator(Stream.TIMED_PATH, run.seed, number))]))
        times.append(time.perf_counter() - start)
    return min(times)
