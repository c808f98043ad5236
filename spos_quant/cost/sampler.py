"""`FeasibleSampler`: architectures within budgets, drawn uniformly, and partial architectures completed within them."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import numpy as np
import numpy.typing as npt

from spos_quant.cost.budget import Budget, cost_range
from spos_quant.cost.feasible import Allowed, CostNode, CountingProgram, price
from spos_quant.cost.integer_program import Program
from spos_quant.cost.table import CostTable
from spos_quant.cost.units import amount
from spos_quant.errors import BudgetError
from spos_quant.space.search_space import Architecture, as_architectures
from spos_quant.space.tree import IntArray, sample_uniform

ROUNDS = 50
"""Draws per architecture asked for, before an integer program takes over where not one was kept."""
PATIENCE = 1_000
"""The same where some were kept."""
_PROGRAM = {"node_limit": 2_000, "mip_rel_gap": 0.1, "time_limit": 10.0}
"""When the integer program gives up, and how near its random objective must come to the best."""
_LEAST = 16
"""Draws at once, at least, where some may be rejected."""


class FeasibleSampler:
    """Samples the architectures of a space that keep one or several budgets.

    One budget (or band): exactly uniform over the feasible architectures. Several at once: the tightest drives, draws
    that break another are rejected, which is still uniform; only where rejection keeps less than one in a thousand does
    an integer program with a random objective (scipy's HiGHS) decide feasibility and give the architectures that miss,
    whose distribution is then no longer uniform.

    Args:
        table: The costs of the space.
        budgets: Bounds that hold together; none means the whole space.

    Raises:
        BudgetError: no architecture keeps the budgets; the message has the feasible range.
    """

    def __init__(self, table: CostTable, budgets: Sequence[Budget] = ()) -> None:
        self.table = table
        self.budgets = list(budgets)
        for budget in self.budgets:
            low, high = cost_range(table, budget.metric)
            if budget.limit < low or (budget.low or 0) > high:
                raise BudgetError(
                    f"{budget.metric} budget {budget.text} allows no architecture of {table.space.name!r}; "
                    f"feasible: {low:,} to {high:,}"
                )
        self._drivers = [self._counted(budget, None) for budget in self.budgets]
        self._order = sorted(range(len(self.budgets)), key=self._log_share)
        if len(self.budgets) > 1 or any(budget.low is not None for budget in self.budgets):
            self._check_together()

    def _slack(self, budget: Budget, allowed: Allowed | None) -> tuple[CostNode, int] | None:
        """The priced tree and what may be spent above its cheapest; None where even that is too dear."""
        priced = price(self.table, budget.metric, allowed)
        if priced is None:
            return None
        slack = min(budget.limit - self.table.constant(budget.metric), priced.high) - priced.low
        return (priced, slack) if slack >= 0 else None

    def _counted(self, budget: Budget, allowed: Allowed | None) -> CountingProgram | None:
        found = self._slack(budget, allowed)
        if found is None:
            return None
        priced, slack = found
        return CountingProgram(priced, slack, bounded=budget.low is not None or slack < priced.high - priced.low)

    def _window(self, counted: CountingProgram, budget: Budget) -> slice:
        """The units that may end inside the budget's band."""
        if budget.low is None:
            return slice(0, counted.limit + 1)
        floor = -(-(budget.low - self.table.constant(budget.metric) - counted.root.low) // counted.unit)
        # Every decision of an architecture may have lost up to a unit by flooring.
        return slice(max(0, floor if counted.exact else floor - len(self.table.space.axes)), counted.limit + 1)

    def _log_share(self, index: int) -> float:
        counted = self._drivers[index]
        assert counted is not None
        return counted.log_share(self._window(counted, self.budgets[index]))

    @property
    def share(self) -> float:
        """The share of all architectures that the tightest budget allows (an upper bound where units are floored)."""
        return exp(min(0.0, self._log_share(self._order[0]))) if self.budgets else 1.0

    def sample(self, rng: np.random.Generator, n: int) -> list[Architecture]:
        """`n` feasible architectures, each uniform over all of them. Advances `rng`."""
        return as_architectures(self._draw(n, rng, None))

    def complete(self, allowed: Allowed, rng: np.random.Generator) -> Architecture | None:
        """An architecture within the budgets whose axes take only `allowed` candidates, uniform over all such.

        Args:
            allowed: Axis -> candidates; axes that are not named are free, axes that do not matter are ignored.
            rng: Advanced.

        Returns:
            None where no such architecture keeps the budgets.
        """
        rows = self._draw(1, rng, allowed)
        return as_architectures(rows)[0] if len(rows) else None

    def _draw(self, n: int, rng: np.random.Generator, allowed: Allowed | None) -> IntArray:
        n_axes = len(self.table.space.axes)
        if not self.budgets and not allowed:
            return sample_uniform(self.table.tree, n_axes, n, rng)
        budget = self.budgets[self._order[0]] if self.budgets else self._no_budget()
        counted = self._counted(budget, allowed) if allowed else self._drivers[self._order[0]]
        kept = [np.zeros((0, n_axes), dtype=np.int64)]
        if counted is None or (allowed and not self._each_reachable(allowed)):
            return kept[0]
        window = self._window(counted, budget)
        counts = counted.counts[window]
        if not counts.sum() > 0:
            return kept[0]
        sure = counted.exact and len(self.budgets) == 1
        have = tried = 0
        while have < n and tried < (PATIENCE if have else ROUNDS) * max(n, _LEAST):
            count = n - have if sure else max(n - have, _LEAST)
            units = window.start + rng.choice(len(counts), size=count, p=counts / counts.sum())
            rows = counted.draw(units, n_axes, rng)
            rows = rows[self.keeps(rows)]
            kept.append(rows)
            have += len(rows)
            tried += count
        return np.concatenate(kept)[:n] if have >= n else self._by_program(n - have, kept, rng, allowed)

    def _each_reachable(self, allowed: Allowed) -> bool:
        """Whether every budget alone leaves something, where several hold together."""
        return len(self.budgets) < 2 or all(self._slack(b, allowed) is not None for b in self.budgets)

    def _no_budget(self) -> Budget:
        return Budget("macs", cost_range(self.table, "macs")[1], "100%")

    def keeps(self, rows: Sequence[Sequence[int]] | IntArray) -> npt.NDArray[np.bool_]:
        """`[N]` whether each of `[N, A]` architectures is within every budget."""
        ok = np.ones(len(rows), dtype=bool)
        for budget in self.budgets:
            costs = self.table.totals(rows, budget.metric)
            ok &= (costs <= budget.limit) & (costs >= (budget.low or 0))
        return ok

    def _by_program(self, n: int, kept: list[IntArray], rng: np.random.Generator, allowed: Allowed | None) -> IntArray:
        """Fills up with solutions of an integer program under a random objective; empty where it has none."""
        for _ in range(n):
            row = solve(self.table, self.budgets, rng, allowed)
            if row is None:
                break
            kept.append(row[None])
        return np.concatenate(kept)

    def _check_together(self) -> None:
        rng = np.random.default_rng(0)
        if not len(self._draw(1, rng, None)):
            ranges = "; ".join(
                f"{b.metric} {b.text} (alone feasible: {amount(b.metric, low)} to {amount(b.metric, high)})"
                for b in self.budgets
                for low, high in [cost_range(self.table, b.metric)]
            )
            raise BudgetError(
                f"no architecture of {self.table.space.name!r} was found that keeps all budgets at once: {ranges}; "
                "raise one of them"
            )


def solve(
    table: CostTable, budgets: Sequence[Budget], rng: np.random.Generator, allowed: Allowed | None = None
) -> IntArray | None:
    """One architecture within the budgets by integer programming, with a random objective; None where none is found.

    Upper bounds are decided for certain in fractions of a second; several narrow bands at once may make it give up.
    """
    return Program(table, budgets, allowed).minimise(lambda columns: rng.random(len(columns)), _PROGRAM)
