"""Ranking stage: rank correlation of supernet scores with stand-alone training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from spos_quant.cost.budget import Budget, cost_range, parse_cost
from spos_quant.cost.knapsack import loss_of
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.sensitivity import has_gradient
from spos_quant.cost.units import human
from spos_quant.errors import BudgetError, ConfigError
from spos_quant.progress import progress, remark
from spos_quant.run_dir import digest, store_json
from spos_quant.searchers.base import Evaluation
from spos_quant.searchers.rank_correlation import ceiling, kendall, rank_agreement
from spos_quant.space.search_space import Architecture
from spos_quant.stages.evaluator import logged_evaluator
from spos_quant.stages.gradient_sensitivity import gradient_sensitivity
from spos_quant.stages.models import teacher_files
from spos_quant.stages.open_run import model_settings
from spos_quant.stages.report import write_report
from spos_quant.stages.run import RANKING, Result, Run
from spos_quant.stages.search import metric_of
from spos_quant.stages.train import train_supernet
from spos_quant.stages.trainings import train_all, train_teacher
from spos_quant.streams import Stream, generator

FORMAT = "spos-quant/ranking/1"
LEAST, MOST, MAX_SEEDS = 4, 10_000, 100
STRATA = 5
_TRIES = 50
Band = tuple[int, int]
"""Minimum and maximum cost, both inclusive."""


@dataclass(frozen=True)
class Drawn:
    """An architecture of a ranking and the index of its cost stratum, in increasing order of cost."""

    architecture: Architecture
    stratum: int


def parse_cost_range(run: Run, text: str | None) -> Band:
    """Parses `LOW:HIGH` into costs of the run's metric; None: the range of the whole space.

    Raises:
        BudgetError: a cost is unreadable, LOW exceeds HIGH, or no architecture lies in the band.
    """
    metric = metric_of(run)
    if text is None:
        return cost_range(run.table, metric)
    low_text, colon, high_text = text.partition(":")
    if not colon:
        raise BudgetError(f"--band {text!r}: expected LOW:HIGH, such as 2M:2.2M, w2a2:w3a3 or 30%:35%")
    low, high = (parse_cost(part, metric, run.table) for part in (low_text, high_text))
    if low > high:
        raise BudgetError(f"--band {text!r}: {low:,} {metric} is above {high:,}")
    FeasibleSampler(run.table, [Budget(metric, high, text, low)])
    return low, high


def check(n: int, seeds: int) -> None:
    """Raises `ConfigError` if the number of architectures or seeds is out of range."""
    if not LEAST <= n <= MOST:
        raise ConfigError(f"--n {n}: expected {LEAST} to {MOST:,} architectures")
    if not 1 <= seeds <= MAX_SEEDS:
        raise ConfigError(f"--seeds {seeds}: expected 1 to {MAX_SEEDS}")


def rank_run(
    run: Run,
    *,
    n: int,
    seeds: int,
    band: Band,
    device: str,
    show: bool,
    workers: int = 0,
    ray: str | None = None,
) -> dict[str, Any]:
    """Trains architectures stand-alone, evaluates them in the supernet, and compares the two rankings.

    Both scores are on search-val: a ranking may decide how a supernet is trained, so it must not use the test split.
    All networks start from the same point and use the recipe `retrain`, overridden by the keys of `rank`. `ranking/`
    keeps the results without weights.

    Args:
        run: The run; its supernet is trained if it is missing.
        n: Number of architectures.
        seeds: Stand-alone trainings per architecture; two or more give a noise ceiling.
        band: Range of costs to draw from, in strata of equal width.
        device: `auto`, `cpu` or `cuda`.
        show: Whether to show progress.
        workers: Processes that evaluate and train; results do not depend on them.
        ray: Address of a Ray cluster that evaluates instead; trainings stay on this machine.

    Returns:
        The content of `ranking.json`, with `run`, `path`, `report` and `skipped` (paths of results finished before).
    """
    drawn = draw(run, n, band)
    train_supernet(run, device=device, show=show)
    degradation = _degradations(run, drawn, device, show)
    evaluations = _evaluate(run, drawn, show, device=device, workers=workers, ray=ray)
    train_teacher(run, run.spec.ranked, device=device, show=show)
    results = _results(run, drawn)
    numbers = [run.seed + i for i in range(seeds)]
    todo = [result.with_seed(number) for number in numbers for result in results]
    skipped = train_all(run, todo, device=device, show=show, workers=workers)
    metric = metric_of(run)
    rows = [
        {**_row(run, one, evaluation, result, numbers, metric), "degradation": loss}
        for one, evaluation, result, loss in zip(drawn, evaluations, results, degradation, strict=True)
    ]
    made = {
        "format": FORMAT,
        "metric": metric,
        "band": list(band),
        "seeds": numbers,
        "recipe": model_settings("retrain", run.spec.ranked),
        **compare(rows, seed=run.seed),
        "rows": rows,
    }
    store_json(run.ranking_path, made)
    paths = {"run": str(run.path), "path": str(run.ranking_path), "report": write_report(run)["path"]}
    return {**made, **paths, "skipped": skipped}


def compare(rows: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """The rank correlations of a ranking.

    The ground truth is the mean stand-alone accuracy over seeds.

    Returns:
        `judges` (predictors: supernet accuracy, supernet loss, sensitivities), `by_cost` (the cost as predictor) and
        `ceiling`. `kendall_of_one` is the mean tau against a single seed, which the ceiling bounds.
    """
    truth = [row["alone_top1"] for row in rows]
    costs, strata = [row["cost"] for row in rows], [row["stratum"] for row in rows]
    by_seed = [list(values) for values in zip(*([one["top1"] for one in row["alone"]] for row in rows), strict=True)]
    predictors = {
        "top1": [row["supernet_top1"] for row in rows],
        "loss": [-row["supernet_loss"] for row in rows],
        "sensitivity": [-row["degradation"] for row in rows if row["degradation"] is not None],
    }
    judges = {}
    for name, predicted in ((name, values) for name, values in predictors.items() if values):
        of_one = [tau for values in by_seed if (tau := kendall(predicted, values)) is not None]
        figures = rank_agreement(predicted, truth, costs, strata, seed=seed)
        judges[name] = {**figures, "kendall_of_one": fmean(of_one) if of_one else None}
    by_cost = rank_agreement(costs, truth, costs, strata, seed=seed)
    return {
        "judges": judges,
        "by_cost": {key: value for key, value in by_cost.items() if not key.startswith("residual")},
        "ceiling": ceiling(by_seed, costs, strata),
    }


def draw(run: Run, n: int, band: Band) -> list[Drawn]:
    """`n` different architectures, round-robin over strata of equal width in cost, uniform within each.

    A draw depends only on the run's seed, the stratum and its number, so a smaller `n` gives a prefix of a larger one.
    An exhausted stratum is skipped.

    Raises:
        BudgetError: fewer than `LEAST` architectures lie in the band.
    """
    samplers = _strata(run, band)
    found: list[Drawn] = []
    while samplers and len(found) < n:
        for stratum in sorted(samplers)[: n - len(found)]:
            architecture = _new(run, samplers[stratum], stratum, [one.architecture for one in found])
            if architecture is None:
                del samplers[stratum]
            else:
                found.append(Drawn(architecture, stratum))
    if len(found) < LEAST:
        raise BudgetError(
            f"only {len(found)} architectures of {run.space.name!r} cost {human(band[0])} to {human(band[1])}; "
            f"a ranking takes {LEAST}: widen --band"
        )
    if len(found) < n:
        remark(f"only {len(found)} different architectures were drawn")
    return found


def _strata(run: Run, band: Band) -> dict[int, FeasibleSampler]:
    """The samplers of the non-empty strata."""
    metric, (low, high) = metric_of(run), band
    count = min(STRATA, high - low + 1)
    edges = [low + (high - low + 1) * i // count for i in range(count + 1)]
    found = {}
    for i in range(count):
        with suppress(BudgetError):
            stratum = Budget(metric, edges[i + 1] - 1, f"of {edges[i]:,} to {edges[i + 1] - 1:,}", edges[i])
            found[i] = FeasibleSampler(run.table, [stratum])
    return found


def _new(run: Run, sampler: FeasibleSampler, stratum: int, taken: Sequence[Architecture]) -> Architecture | None:
    for attempt in range(_TRIES):
        drawn = sampler.sample(generator(Stream.RANKED, run.seed, stratum, len(taken), attempt), 1)
        if drawn and drawn[0] not in taken:
            return drawn[0]
    return None


def _evaluate(
    run: Run, drawn: Sequence[Drawn], show: bool, *, device: str, workers: int, ray: str | None
) -> list[Evaluation]:
    asked = [one.architecture for one in drawn]
    with (
        ExitStack() as stack,
        progress("evaluate in the supernet", len(asked), unit="architectures", show=show) as tick,
    ):
        found = []
        for evaluation in logged_evaluator(run, device, workers, stack, ray=ray)(asked):
            found.append(evaluation)
            tick()
        return found


def _degradations(run: Run, drawn: Sequence[Drawn], device: str, show: bool) -> list[float | None]:
    """Loss increase of each architecture by the sum of gradient sensitivities; None if an axis lacks the estimate."""
    if not has_gradient(run.space):
        return [None] * len(drawn)
    found, _ = gradient_sensitivity(run, device=device, show=show)
    losses = found.losses(run.space)
    return [loss_of(losses, one.architecture, run.space.relevant(one.architecture)) for one in drawn]


def _results(run: Run, drawn: Sequence[Drawn]) -> list[Result]:
    """The results to train, with bit configurations; kept apart from the run's results, per recipe and supernet."""
    subdirectory, quantizer = f"{RANKING}/{_settings(run)}", run.spec.ranked.quantizer or run.spec.quantizer
    found = []
    for one in drawn:
        name = hashlib.sha256(run.space.encode(one.architecture).encode()).hexdigest()[:12]
        result = Result(run, name, subdirectory=subdirectory)
        config = run.space.bit_config(one.architecture).model_copy(update={"quantizer": quantizer})
        result.write_bit_config(config.to_json())
        found.append(result)
    return found


def _settings(run: Run) -> str:
    """Digest of everything besides architecture and seed that a stand-alone training depends on."""
    recipe = model_settings("retrain", run.spec.ranked)
    search = run.spec.search
    parts = [recipe, run.data_source, run.seed, search.recalibration_images, search.batch_size]
    used = [run.supernet_path] if recipe["init"] == "inherit" else []
    parts += [digest(path) for path in (*used, *teacher_files(run, recipe["distill"]))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _row(
    run: Run, one: Drawn, evaluation: Evaluation, result: Result, seeds: Sequence[int], metric: str
) -> dict[str, Any]:
    scores = [result.with_seed(seed).metrics()["search_val"] for seed in seeds]
    return {
        "architecture": run.space.encode(one.architecture),
        "stratum": one.stratum,
        "cost": run.table.total(one.architecture, metric),
        "supernet_top1": evaluation.score,
        "supernet_loss": evaluation.loss,
        "alone_top1": fmean(score["top1"] for score in scores),
        "alone": [{"seed": seed, **score} for seed, score in zip(seeds, scores, strict=True)],
    }
