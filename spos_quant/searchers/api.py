"""`sq.search`: the search as a function, for users with their own training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from spos_quant.config import SearchConfig
from spos_quant.cost.budget import parse_budget
from spos_quant.cost.knapsack import Losses
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.sensitivity import check_gradient
from spos_quant.errors import ConfigError
from spos_quant.progress import progress
from spos_quant.searchers.base import Objective, Problem, Scored, drive, searchers
from spos_quant.searchers.evaluators import UNSET, FunctionEvaluator, resolve_recalibration
from spos_quant.searchers.pareto import front
from spos_quant.space.search_space import Architecture
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.fisher import fisher_sensitivity

Entry = tuple[Architecture, int, float]
"""`(architecture, cost, score)`."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    best: Architecture
    """The best feasible architecture."""
    front: list[Entry]
    """The Pareto front of cost and score among the feasible architectures, by ascending cost."""
    evaluations: list[Entry]
    """All evaluations, in order; those that the additive estimate is fitted to may exceed the budgets."""


def search(
    supernet: Supernet,
    *,
    evaluate: Callable[[nn.Module], float],
    recalibrate: Iterable[object] | None = UNSET,
    seed: int = 0,
    searcher: str = "evolution",
    config: SearchConfig | None = None,
    show: bool = False,
    **budgets: str | float,
) -> SearchResult:
    """Searches a trained supernet under budgets and leaves the best path active, in the state in which it was scored.

    Args:
        supernet: Trained with one active path per step.
        evaluate: `f(module) -> float`, higher is better; called in evaluation mode without gradients.
        recalibrate: Batches of training images (or pairs whose first item is images) from which the BatchNorm
            statistics of every path are recomputed. Required if the model has BatchNorm; None states that none is
            needed.
        seed: The same seed gives the same result.
        searcher: Name of a registered searcher.
        config: Population, generations and so on. None takes the search space's own settings.
        show: Shows progress on stderr.
        **budgets: `bitops_budget`, `macs_budget`, `params_budget`, `weight_bytes_budget`, for example "6.3Gi".

    Raises:
        BudgetError: a budget that cannot be parsed or that no architecture satisfies.
        ConfigError: BatchNorm without `recalibrate`, an unknown searcher, or an `evaluate` that returns no number.
    """
    recalibrate = resolve_recalibration(supernet, recalibrate)
    unknown = [name for name in budgets if not name.endswith("_budget")]
    if unknown:
        raise TypeError(f"search() got an unexpected keyword {unknown[0]!r}; budgets end in _budget")
    config = config or supernet.space.spec.search
    if config.rank_by == "loss":
        raise ConfigError(
            "search.rank_by=loss: `evaluate` gives one number, by which candidates are ranked; have it give minus the "
            "loss, and leave rank_by at top1"
        )
    limits = [parse_budget(text, name.removesuffix("_budget"), supernet.table) for name, text in budgets.items()]
    gradients = config.estimate == "gradient" and "knapsack" in (searcher, config.first)
    losses = _gradient_losses(supernet, recalibrate, seed) if gradients else None
    problem = Problem(supernet.space, FeasibleSampler(supernet.table, limits), config, seed, Objective(), losses)
    metric = limits[0].metric if limits else "macs" if supernet.space.spec.full_precision else "bitops"
    proposer = searchers[searcher](problem)
    evaluator = FunctionEvaluator(supernet, evaluate, recalibrate)
    with progress("search", proposer.planned, unit="architectures", show=show) as tick:
        outcome = drive(
            proposer,
            evaluator,
            lambda asked: supernet.table.totals(asked, metric).tolist(),
            problem.sampler.keeps,
            on_result=lambda scored: tick(f"score {scored.score:.4f}"),
        )
    best = outcome.best(problem.objective)
    evaluator.prepare(best.architecture)
    kept = front(scored for scored in outcome.results if scored.within)
    return SearchResult(best.architecture, _entries(kept), _entries(outcome.results))


def _gradient_losses(supernet: Supernet, images: Iterable[object] | None, seed: int) -> Losses:
    if images is None:
        raise ConfigError("search.estimate=gradient takes its images from recalibrate=<batches of training images>")
    check_gradient(supernet.space)
    return fisher_sensitivity(supernet, images, seed=seed).losses(supernet.space)


def _entries(results: Iterable[Scored]) -> list[Entry]:
    return [(scored.architecture, scored.cost, scored.score) for scored in results]
