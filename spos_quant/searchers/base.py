"""The contract of searchers, and the loop that drives one: ask, evaluate, tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spos_quant.config import SearchConfig
from spos_quant.cost.knapsack import Losses
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.errors import BudgetError
from spos_quant.registry import Registry
from spos_quant.space.search_space import Architecture, SearchSpace


@dataclass(frozen=True)
class Evaluation:
    """How an architecture answers in the supernet; it belongs to the run, not to a budget."""

    architecture: Architecture
    score: float
    """Higher is better: top-1 in [0, 1], or what the user's function gave."""
    loss: float | None = None
    """Mean cross-entropy in nats, where it is known."""


@dataclass(frozen=True)
class Scored:
    """An evaluation with its cost in the metric that the search minds."""

    architecture: Architecture
    score: float
    loss: float | None
    cost: int
    within: bool = True
    """Whether it keeps the budgets; what does not may teach a searcher something but never wins."""


@dataclass(frozen=True)
class Objective:
    """What makes one architecture better than another.

    What keeps the budgets comes first. Without `least_score` the highest score wins, or the lowest loss; with it the
    cheapest architecture that reaches it. Ties break by score, then loss, or the other way round, then by lower cost,
    then by the architecture itself, so that the order is total.
    """

    least_score: float | None = None
    rank_by: str = "top1"
    """`loss` puts the loss before the score."""

    def rank(self, scored: Scored) -> tuple[Any, ...]:
        """A sort key: the smallest is the best."""
        loss = float("inf") if scored.loss is None or isnan(scored.loss) else scored.loss
        quality = (loss, -scored.score) if self.rank_by == "loss" else (-scored.score, loss)
        by_score = (*quality, scored.cost, scored.architecture)
        if self.least_score is None:
            return (not scored.within, *by_score)
        if scored.score < self.least_score:
            return (not scored.within, 1, *by_score)
        return (not scored.within, 0, scored.cost, *by_score)


@dataclass(frozen=True)
class Problem:
    """What a searcher works on: a space, the architectures within the budgets, and an order among results."""

    space: SearchSpace
    sampler: FeasibleSampler
    config: SearchConfig
    seed: int
    objective: Objective = field(default_factory=Objective)
    losses: Losses | None = None
    """Sensitivities that are known before the search; None leaves it to the searcher to measure what it needs."""


class Searcher(Protocol):
    """Ask-and-tell: holds the strategy, never touches a model or data.

    The proposals of a generation follow from (seed, generation) and from what was told before, so that telling the
    logged results again restores everything.
    """

    @property
    def planned(self) -> int:
        """How many architectures it asks for at most."""

    def ask(self) -> list[Architecture]:
        """The next generation, no architecture ever asked before; empty ends the search.

        Those above the budgets are there to learn from and cannot win.
        """

    def tell(self, results: Sequence[Scored]) -> None:
        """The results of the last `ask`, in the same order."""


searchers: Registry[Callable[[Problem], Searcher]] = Registry(
    "searcher", builtin_modules=tuple(f"spos_quant.searchers.{name}" for name in ("evolution", "random", "knapsack"))
)

Evaluator = Callable[[Sequence[Architecture]], Iterable[Evaluation]]
"""Judges architectures and yields their evaluations in order."""


@dataclass
class Outcome:
    """What a search found.

    Attributes:
        results: Every architecture of this search with its score and cost, in the order of evaluation.
        generations: The generation of each.
        complete: False where a time limit ended the search early.
    """

    results: list[Scored] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)
    complete: bool = True

    def best(self, objective: Objective, beside: Sequence[Scored] = ()) -> Scored:
        """The best result under an objective, those `beside` included.

        Raises:
            BudgetError: nothing within the budgets was evaluated before the time limit.
        """
        best = min([*self.results, *beside], key=objective.rank)
        if not best.within:
            raise BudgetError(
                "the time limit ended the search before anything within the budget was evaluated; repeat the command "
                "to go on: what was evaluated is kept"
            )
        return best


def drive(
    searcher: Searcher,
    evaluate: Evaluator,
    cost: Callable[[Sequence[Architecture]], Sequence[int]],
    keeps: Callable[[Sequence[Architecture]], Sequence[bool] | npt.NDArray[np.bool_]],
    *,
    deadline: float | None = None,
    on_result: Callable[[Scored], None] | None = None,
) -> Outcome:
    """Runs a searcher to its end.

    Args:
        searcher: Proposes.
        evaluate: Judges a generation as a batch.
        cost: The costs of architectures, in order.
        keeps: Whether each of them keeps the budgets.
        deadline: A `time.monotonic()` after which no further architecture is started.
        on_result: Called after every evaluation.
    """
    outcome = Outcome()
    generation = 0
    while asked := searcher.ask():
        told: list[Scored] = []
        for price, within, evaluation in zip(cost(asked), keeps(asked), evaluate(asked), strict=True):
            told.append(Scored(evaluation.architecture, evaluation.score, evaluation.loss, int(price), bool(within)))
            outcome.results.append(told[-1])
            outcome.generations.append(generation)
            if on_result is not None:
                on_result(told[-1])
            if deadline is not None and time.monotonic() > deadline:
                outcome.complete = False
                return outcome
        searcher.tell(told)
        generation += 1
    return outcome
