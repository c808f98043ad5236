"""The additive estimate of a space from evaluations around its reference, and its optima within budgets."""

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
    """Learns from `architectures`, which need not keep the budgets, and proposes what is best by the sum.

    Args:
        problem: What is searched.

    Attributes:
        architectures: What must be evaluated first: the reference and every perturbation from it; nothing where the
            problem brings its sensitivities.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._departures = Perturbations(problem.sampler.table)
        self.architectures = self._departures.architectures if problem.losses is None else []
        self._losses: Losses = problem.losses or ()

    def learn(self, results: Sequence[Scored]) -> None:
        """Takes the results of `architectures`."""
        self._losses = measured(self._departures, {s.architecture: (s.score, s.loss) for s in results}).losses(
            self.problem.space
        )

    def best(self, count: int) -> list[Architecture]:
        """The `count` best by the sum within the budgets.

        Raises:
            BudgetError: the integer program found none, which narrow bands may lead to.
        """
        found = optima(self.problem.sampler.table, self._losses, self.problem.sampler.budgets, count=count)
        if not found:
            raise BudgetError("no architecture within the budgets was found by integer programming; widen a band")
        return found

    def at_shares(self, shares: Sequence[float]) -> list[Architecture]:
        """The best by the sum where the first budget, or the cost without any, is cut down to shares of its range.

        The range of a budget goes from the cheapest architecture to its limit. Shares that nothing keeps are left out;
        equal solutions come once.
        """
        table, budgets = self.problem.sampler.table, self.problem.sampler.budgets
        metric = budgets[0].metric if budgets else self._departures.metric
        low, high = cost_range(table, metric)
        first = budgets[0] if budgets else Budget(metric, high, "100%")
        found: dict[Architecture, None] = {}
        for share in shares:
            limit = low + int((min(first.limit, high) - low) * share)
            found |= dict.fromkeys(optima(table, self._losses, [replace(first, limit=limit), *budgets[1:]]))
        return list(found)
