"""Bits by sensitivity: the exact optimum of an additive loss estimate, as HAWQ and others find by integer programming.

It needs no supernet trained for search and is therefore the baseline that a search must beat.
"""

from __future__ import annotations

from collections.abc import Sequence

from spos_quant.searchers.additive import AdditiveEstimate
from spos_quant.searchers.base import Problem, Scored, searchers
from spos_quant.space.search_space import Architecture


@searchers.register("knapsack")
class Knapsack:
    """Evaluates all perturbations of the reference, then the `search.solutions` best feasible architectures by the sum.

    If the objective is the cheapest architecture of at least some score, there is no budget. The searcher then
    evaluates a population of optima from the cheapest to the most expensive.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.estimate = AdditiveEstimate(problem)
        self.generation = 0 if self.estimate.architectures else 1
        self.seen: set[Architecture] = set()

    @property
    def planned(self) -> int:
        """The number of perturbations plus the number of solutions."""
        return len(self.estimate.architectures) + self._count

    @property
    def _count(self) -> int:
        config = self.problem.config
        return config.solutions if self.problem.objective.least_score is None else config.population

    def ask(self) -> list[Architecture]:
        """First the perturbations, feasible or not; then the solutions that are not among them."""
        if self.generation == 0:
            return list(self.estimate.architectures)
        if self.generation > 1:
            return []
        if self.problem.objective.least_score is None:
            found = self.estimate.best(self._count)
        else:
            found = self.estimate.at_shares([i / (self._count - 1) for i in range(self._count)])
        return [a for a in found if a not in self.seen]

    def tell(self, results: Sequence[Scored]) -> None:
        """Fits the estimate to the results of the perturbations."""
        if self.generation == 0:
            self.estimate.learn(results)
        self.seen.update(scored.architecture for scored in results)
        self.generation += 1
