"""Search stage: searches the trained supernet under budgets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import inf, isfinite
from typing import Any

import numpy as np

from spos_quant.cost.budget import Budget, budgets_json, parse_budget
from spos_quant.cost.feasible import argmax_cost
from spos_quant.cost.knapsack import Losses
from spos_quant.cost.metrics import metrics
from spos_quant.cost.rows import architecture_rows, total
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.sensitivity import check_gradient
from spos_quant.cost.table import CostTable
from spos_quant.errors import BudgetError, ConfigError
from spos_quant.loggers import Loggers, open_loggers
from spos_quant.progress import Tick, progress
from spos_quant.run_dir import digest, store_json
from spos_quant.searchers.base import Objective, Problem, Scored, drive, searchers
from spos_quant.searchers.evaluators import CachedEvaluator
from spos_quant.space.uniform import uniform_architectures
from spos_quant.stages.evaluator import evaluator_settings, logged_evaluator, open_log
from spos_quant.stages.gradient_sensitivity import gradient_sensitivity
from spos_quant.stages.rerank import Finalist, Reranking, places
from spos_quant.stages.run import Run
from spos_quant.stages.search_request import Request, Searched


def problem_of(run: Run, request: Request, objective: Objective | None = None, losses: Losses | None = None) -> Problem:
    """The problem of a searcher.

    A missing objective, or missing gradient sensitivities that the settings require, are replaced by placeholders. They
    suffice to plan the number of evaluations.
    """
    if objective is None:
        objective = Objective(None if request.max_drop is None else 0.0, run.spec.search.rank_by)
    if losses is None and run.spec.search.estimate == "gradient":
        losses = [np.zeros(len(axis.candidates)) for axis in run.space.axes]
    sampler = FeasibleSampler(run.table, request.budgets)
    return Problem(run.space, sampler, run.spec.search, run.seed, objective, losses)


def wants_gradients(run: Run, request: Request) -> bool:
    """Whether a search proposes optima of the additive estimate, estimated from gradients.

    Raises:
        ConfigError: it does, but an axis of the space has no gradient estimate.
    """
    search = run.spec.search
    if search.estimate != "gradient" or "knapsack" not in (request.searcher, search.first):
        return False
    check_gradient(run.space)
    return True


def metric_of(run: Run, budgets: tuple[Budget, ...] = ()) -> str:
    """The metric that breaks ties and that reports show: the budget's, else BitOps, or MACs in full precision."""
    if budgets:
        return budgets[0].metric
    return "macs" if run.spec.full_precision else "bitops"


def search_run(
    run: Run, requests: list[Request], *, device: str, show: bool, workers: int = 0, ray: str | None = None
) -> list[dict[str, Any]]:
    """Searches once per request in one supernet; finished results are returned as stored.

    Args:
        run: The run; its supernet must be trained.
        requests: The searches.
        device: `auto`, `cpu` or `cuda`.
        show: Whether to show progress.
        workers: Evaluator processes; 0 evaluates in this process. Results do not depend on them.
        ray: Address of a Ray cluster whose actors evaluate instead.

    Returns:
        Per request `key, budget, bits (path), bitops, score, evaluations, complete, skipped`.
    """
    for request in requests:
        if request.searcher not in searchers:
            searchers[request.searcher]  # raises with the near match
        FeasibleSampler(run.table, request.budgets)
        wants_gradients(run, request)
    evaluator = partial(logged_evaluator, run, device, workers, ray=ray)
    found = _searched(run, requests, device, show, evaluator)
    # After all searches, because two sets of workers at once would need the CPUs and the memory of both.
    with ExitStack() as stack:
        reranking = Reranking(run, partial(evaluator, stack=stack, all_images=True))
        return [_reranked(run, reranking, one, show) if isinstance(one, Searched) else one for one in found]


def _searched(
    run: Run, requests: list[Request], device: str, show: bool, evaluator: Callable[..., CachedEvaluator]
) -> list[dict[str, Any] | Searched]:
    """The stored summaries of finished requests, and the outcomes of the others, stored at once if not re-ranked."""
    found: list[dict[str, Any] | Searched] = []
    with ExitStack() as stack:
        session: _Session | None = None
        for request in requests:
            done: dict[str, Any] | Searched | None = _finished(run, request)
            if done is None:
                session = session or _Session(run, device, evaluator(stack=stack))
                done = session.search(request, show)
                if not places(run):
                    done = _write(run, done, [])
            found.append(done)
    return found


def _reranked(run: Run, reranking: Reranking, searched: Searched, show: bool) -> dict[str, Any]:
    """Re-ranks a complete search within its remaining time, and stores it with its winner."""
    if not searched.outcome.complete:
        return _write(run, searched, [])
    deadline = None if searched.left is None else time.monotonic() + searched.left
    return _write(run, searched, reranking.judge(searched, deadline=deadline, show=show))


def _finished(run: Run, request: Request) -> dict[str, Any] | None:
    """The stored summary of a completed search; None if it must run."""
    result = run.result(request.key)
    if not (result.searched and result.bits_path.exists() and result.asked_path.exists()):
        return None
    done = result.search()
    if not done["complete"] or done["settings"] != _settings(run, request):
        return None
    with open_log(run) as log:  # may be new, if a damaged one was deleted
        if any(log.get(run.space.decode(text)) is None for text in result.asked()["architectures"]):
            return None
    return {**done, "bits": str(result.bits_path), "skipped": True}


def _settings(run: Run, request: Request) -> dict[str, Any]:
    search = run.spec.search.model_dump(mode="json")
    if not places(run):  # keeps searches valid that were stored before finalists existed
        del search["finalists"]
    settings = {"search": search, "searcher": request.searcher, "seed": run.seed, "evaluator": evaluator_settings(run)}
    if any(metrics[budget.metric].formula is None for budget in request.budgets):
        settings["latency"] = digest(run.latency_path)  # another table may have another optimum
    return settings


class _Session:
    """An evaluator and its log, shared by several searches."""

    def __init__(self, run: Run, device: str, evaluate: CachedEvaluator) -> None:
        self.run, self.device, self.evaluate = run, device, evaluate

    def search(self, request: Request, show: bool) -> Searched:
        run = self.run
        metric = metric_of(run, request.budgets)
        reference = self._reference(request, metric)
        least = next((one.score - (request.max_drop or 0.0) for one in reference), None)
        problem = problem_of(run, request, Objective(least, run.spec.search.rank_by), self._losses(request, show))
        self._baselines()
        deadline = None if request.timeout is None else time.monotonic() + request.timeout
        watch = _Watch()
        searcher = searchers[request.searcher](problem)
        with (
            progress(f"search {request.key}", searcher.planned, unit="architectures", show=show) as tick,
            open_loggers(run.spec.log, run.logs(f"search-{request.key}")) as log,
        ):
            outcome = drive(
                searcher,
                self.evaluate,
                lambda asked: run.table.totals(asked, metric).tolist(),
                problem.sampler.keeps,
                deadline=deadline,
                on_result=lambda scored: watch.see(scored, metric, tick, log),
            )
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return Searched(request, outcome, problem.objective, tuple(reference), searcher.planned, left)

    def _losses(self, request: Request, show: bool) -> Losses | None:
        """The gradient sensitivities if the settings and the searcher use them, else None."""
        if not wants_gradients(self.run, request):
            return None
        found, _ = gradient_sensitivity(self.run, device=self.device, show=show)
        return found.losses(self.run.space)

    def _reference(self, request: Request, metric: str) -> list[Scored]:
        """The most expensive architecture, scored, if the request has a `max_drop`; else empty."""
        if request.max_drop is None:
            return []
        asked = [argmax_cost(self.run.table, metric)]
        (found,) = self.evaluate(asked)
        return [Scored(found.architecture, found.score, found.loss, self.run.table.total(asked[0], metric))]

    def _baselines(self) -> None:
        """Evaluates the uniform architectures for the report; the log serves searches that propose them."""
        list(self.evaluate(list(uniform_architectures(self.run.space).values())))


def _write(run: Run, searched: Searched, finalists: list[Finalist] | None) -> dict[str, Any]:
    """Stores a search with its winner.

    Args:
        run: The run.
        searched: The search.
        finalists: The best first; empty without re-ranking, None if time ran out.
    """
    request, outcome = searched.request, searched.outcome
    # The reference has an accuracy drop of 0, so it wins if no cheaper architecture is within the allowed drop.
    best = finalists[0].searched if finalists else outcome.best(searched.objective, searched.reference)
    result = run.result(request.key)
    rows = architecture_rows(run.space, best.architecture)
    bitops = None if run.spec.full_precision else total(rows, "bitops")
    cost = {"formula": "bitops/1", "bitops": bitops, "macs": total(rows, "macs")}
    provenance = {"seed": run.seed, "spos_quant": _version(), "space": run.spec.name, "searcher": request.searcher}
    result.write_bit_config(run.space.bit_config(best.architecture, cost=cost, provenance=provenance).to_json())
    asked = [run.space.encode(scored.architecture) for scored in outcome.results]
    summary = {
        "key": request.key,
        "budget": budgets_json(list(request.budgets)) or None,
        "budget_text": {budget.metric: budget.text for budget in request.budgets},
        "max_accuracy_drop": request.max_drop,
        "architecture": run.space.encode(best.architecture),
        "bitops": bitops,
        "costs": {name: run.table.total(best.architecture, name) for name in run.table.budget_metrics},
        "score": best.score,
        "loss": best.loss,
        "finalists": None if finalists is None else [one.to_json(run) for one in finalists],
        "evaluations": len(asked),
        "planned": searched.planned,
        "complete": outcome.complete and finalists is not None,
        "settings": _settings(run, request),
    }
    store_json(result.asked_path, {"architectures": asked, "generations": outcome.generations})
    store_json(result.search_path, summary)
    return {**summary, "bits": str(result.bits_path), "skipped": False}


class _Watch:
    """Reports the evaluations of a running search to progress bar and loggers."""

    def __init__(self) -> None:
        self.best = -inf
        self.count = 0

    def see(self, scored: Scored, metric: str, tick: Tick, log: Loggers) -> None:
        values = {"score": scored.score, metric: scored.cost}
        if scored.within:
            self.best = max(self.best, scored.score)
        if isfinite(self.best):
            values["best"] = self.best
        tick(f"best top-1 {self.best:.4f}" if isfinite(self.best) else f"top-1 {scored.score:.4f}")
        log.log(values, self.count)
        self.count += 1


def combined_budgets(table: CostTable, given: Mapping[str, Sequence[str] | None]) -> list[tuple[Budget, ...]]:
    """Combinations of budgets that apply together: one per value of the repeated metric.

    Args:
        table: The costs of the space.
        given: Metric -> budget texts; None or empty if the metric has no budget.

    Raises:
        BudgetError: a budget is unreadable, or two metrics are repeated.
    """
    budgets = {
        metric: [parse_budget(text, metric, table) for text in texts] for metric, texts in given.items() if texts
    }
    repeated = [metric for metric, values in budgets.items() if len(values) > 1]
    if len(repeated) > 1:
        raise BudgetError("only one budget option may be repeated; the others hold together with each of its values")
    if not budgets:
        return []
    main = repeated[0] if repeated else next(iter(budgets))
    others = tuple(values[0] for metric, values in budgets.items() if metric != main)
    return [(budget, *others) for budget in budgets[main]]


def parse_timeout(text: str) -> float:
    """Seconds of `90`, `90s`, `30m` or `2h`. Raises `ConfigError` for other text."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 1)
    seconds = float(number) * unit if re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]+)?", number, re.ASCII) else -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--timeout {text!r}: expected a time such as 90s, 30m or 2h")
    return seconds


def _version() -> str:
    from importlib.metadata import version

    return version("spos-quant")
