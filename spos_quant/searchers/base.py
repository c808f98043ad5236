"""The searcher interface, and the loop that runs a searcher: ask, evaluate, tell."""

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
    """The quality of an architecture in the supernet. It depends on the run, not on a budget."""

    architecture: Architecture
    score: float
    """Higher is better: top-1 in [0, 1], or the value of the user's function."""
    loss: float | None = None
    """Mean cross-entropy in nats; None if unknown."""


@dataclass(frozen=True)
class Scored:
    """An evaluation with its cost in the metric of the search."""

    architecture: Architecture
    score: float
    loss: float | None
    cost: int
    within: bool = True
    """Whether it satisfies the budgets. Infeasible results may inform a searcher but never win."""


@dataclass(frozen=True)
class Objective:
    """A total order of architectures.

    Feasible architectures come first. Without `least_score` the highest score wins (or the lowest loss); with it, the
    cheapest architecture that reaches it. Ties are broken by score and loss (or loss and score), then by lower cost,
    then by the architecture tuple.
    """

    least_score: float | None = None
    rank_by: str = "top1"
    """`top1` compares the score before the loss, `loss` the loss before the score."""

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
    """A search problem: the space, a sampler of its feasible architectures, settings, and the order of results."""

    space: SearchSpace
    sampler: FeasibleSampler
    config: SearchConfig
    seed: int
    objective: Objective = field(default_factory=Objective)
    losses: Losses | None = None
    """Sensitivities known before the search. None: the searcher measures them if it needs them."""


class Searcher(Protocol):
    """Ask-and-tell interface of a search strategy, without access to a model or data.

    The proposals of a generation depend only on (seed, generation) and on the results told before. Telling the logged
    results again therefore restores the state.
    """

    @property
    def planned(self) -> int:
        """Upper bound on the number of architectures it asks for."""

    def ask(self) -> list[Architecture]:
        """The next generation of architectures, none of which was asked before. An empty list ends the search.

        Infeasible architectures inform the searcher and cannot win.
        """

    def tell(self, results: Sequence[Scored]) -> None:
        """Takes the results of the last `ask`, in the same order."""


searchers: Registry[Callable[[Problem], Searcher]] = Registry(
    "searcher", builtin_modules=tuple(f"spos_quant.searchers.{name}" for name in ("evolution", "random", "knapsack"))
)

Evaluator = Callable[[Sequence[Architecture]], Iterable[Evaluation]]
"""Evaluates architectures and yields the evaluations in the same order."""


@dataclass
class Outcome:
    """What a search found.

    Attributes:
        results: Every architecture of this search with its score and cost, in the order of evaluation.
        generations: The generation of each result.
        complete: False if a time limit ended the search early.
    """

    results: list[Scored] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)
    complete: bool = True

    def best(self, objective: Objective, beside: Sequence[Scored] = ()) -> Scored:
        """The best result under an objective, among `results` and `beside`.

        Raises:
            BudgetError: no feasible architecture was evaluated before the time limit.
        """
        best = min([*self.results, *beside], key=objective.rank)
        if not best.within:
            raise BudgetError(
                "the time limit ended the search before anything within the budget was evaluated; repeat the command "
                "to continue: all evaluations are kept"
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
        searcher: Proposes architectures.
        evaluate: Evaluates a generation as a batch.
        cost: The costs of architectures, in order.
        keeps: Whether each architecture satisfies the budgets.
        deadline: A `time.monotonic()` value after which no further evaluation starts.
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
