"""Additive loss estimate of a search space from perturbations of its reference, and its optima under budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spos_quant.cost.budget import Budget, cost_range
from spos_quant.cost.knapsack import Losses, optima
from spos_quant.cost.sensitivity import Perturbations, measured
from spos_quant.errors import BudgetError
from spos_quant.searchers.base import Problem, Scored
from spos_quant.space.search_space import Architecture


class AdditiveEstimate:
    """Estimates losses as a sum over axes and proposes the optima of that sum.

    Args:
        problem: The search problem.

    Attributes:
        architectures: Must be evaluated first: the reference and all its perturbations, feasible or not. Empty if the
            problem provides the sensitivities.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._perturbations = Perturbations(problem.sampler.table)
        self.architectures = self._perturbations.architectures if problem.losses is None else []
        self._losses: Losses = problem.losses or ()

    def learn(self, results: Sequence[Scored]) -> None:
        """Fits the estimate to the results of `architectures`."""
        self._losses = measured(self._perturbations, {s.architecture: (s.score, s.loss) for s in results}).losses(
            self.problem.space
        )

    def best(self, count: int) -> list[Architecture]:
        """The `count` best feasible architectures by the estimated sum.

        Raises:
            BudgetError: the integer program found none, which can happen with narrow cost bands.
        """
        found = optima(self.problem.sampler.table, self._losses, self.problem.sampler.budgets, count=count)
        if not found:
            raise BudgetError("no architecture within the budgets was found by integer programming; widen a band")
        return found

    def at_shares(self, shares: Sequence[float]) -> list[Architecture]:
        """The best architecture by the estimated sum for several shares of the first budget.

        Share 0 is the cost of the cheapest architecture, share 1 the limit of the budget, or the highest cost if there
        is no budget. Infeasible shares are skipped and duplicates removed.
        """
        table, budgets = self.problem.sampler.table, self.problem.sampler.budgets
        metric = budgets[0].metric if budgets else self._perturbations.metric
        low, high = cost_range(table, metric)
        first = budgets[0] if budgets else Budget(metric, high, "100%")
        found: dict[Architecture, None] = {}
        for share in shares:
            limit = low + int((min(first.limit, high) - low) * share)
            found |= dict.fromkeys(optima(table, self._losses, [replace(first, limit=limit), *budgets[1:]]))
        return list(found)
