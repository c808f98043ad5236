"""`FeasibleSampler` draws architectures uniformly within budgets, and completes partial architectures within them."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import numpy as np
import numpy.typing as npt

from spos_quant.cost.budget import Budget, cost_range
from spos_quant.cost.feasible import Allowed, CostNode, CountingProgram, price
from spos_quant.cost.integer_program import Program
from spos_quant.cost.metrics import metrics
from spos_quant.cost.table import CostTable
from spos_quant.errors import BudgetError
from spos_quant.space.search_space import Architecture, as_architectures
from spos_quant.space.tree import IntArray, sample_uniform

ROUNDS = 50
"""Draws per requested architecture after which the integer program takes over, if all were rejected."""
PATIENCE = 1_000
"""Draws per requested architecture after which the integer program takes over, if some were accepted."""
_PROGRAM = {"node_limit": 2_000, "mip_rel_gap": 0.1, "time_limit": 10.0}
"""Solver options: limits, and a loose gap, since the objective is random."""
_MIN_DRAWS = 16
"""Least number of draws at once if draws may be rejected."""


class FeasibleSampler:
    """Samples architectures of a space within one or several budgets.

    With one budget or band, draws are exactly uniform over the feasible architectures. With several, draws within the
    tightest budget are rejected if they exceed another, which is still uniform. If less than one draw in a thousand is
    accepted, an integer program with a random objective (scipy's HiGHS) decides feasibility and provides the missing
    architectures; their distribution is not uniform.

    Args:
        table: The costs of the space.
        budgets: Bounds that all must hold; none means the whole space.

    Raises:
        BudgetError: no architecture is within the budgets; the message has the feasible range.
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
        self._drivers = [self._counting_program(budget, None) for budget in self.budgets]
        """Per budget, its counting program over the whole space."""
        self._order = sorted(range(len(self.budgets)), key=self._log_share)
        if len(self.budgets) > 1 or any(budget.low is not None for budget in self.budgets):
            self._check_together()

    def _slack(self, budget: Budget, allowed: Allowed | None) -> tuple[CostNode, int] | None:
        """The cost tree and the slack above its cheapest architecture; None if no architecture is within the budget."""
        root = price(self.table, budget.metric, allowed)
        if root is None:
            return None
        slack = min(budget.limit - self.table.constant(budget.metric), root.high) - root.low
        return (root, slack) if slack >= 0 else None

    def _counting_program(self, budget: Budget, allowed: Allowed | None) -> CountingProgram | None:
        found = self._slack(budget, allowed)
        if found is None:
            return None
        root, slack = found
        return CountingProgram(root, slack, bounded=budget.low is not None or slack < root.high - root.low)

    def _window(self, program: CountingProgram, budget: Budget) -> slice:
        """The units that may be within the budget's band."""
        if budget.low is None:
            return slice(0, program.limit + 1)
        floor = -(-(budget.low - self.table.constant(budget.metric) - program.root.low) // program.unit)
        # Flooring may have removed up to one unit per axis.
        return slice(max(0, floor if program.exact else floor - len(self.table.space.axes)), program.limit + 1)

    def _log_share(self, index: int) -> float:
        program = self._drivers[index]
        assert program is not None
        return program.log_share(self._window(program, self.budgets[index]))

    @property
    def share(self) -> float:
        """The share of all architectures within the tightest budget (an upper bound if units are floored)."""
        return exp(min(0.0, self._log_share(self._order[0]))) if self.budgets else 1.0

    def sample(self, rng: np.random.Generator, n: int) -> list[Architecture]:
        """`n` independent feasible architectures, distributed as the class describes. Advances `rng`."""
        return as_architectures(self._draw(n, rng, None))

    def complete(self, allowed: Allowed, rng: np.random.Generator) -> Architecture | None:
        """An architecture within the budgets that takes only `allowed` candidates, distributed as `sample`.

        Args:
            allowed: Axis -> allowed candidates; other axes are free, irrelevant axes are ignored.
            rng: Advanced.

        Returns:
            None if no such architecture is within the budgets.
        """
        rows = self._draw(1, rng, allowed)
        return as_architectures(rows)[0] if len(rows) else None

    def _draw(self, n: int, rng: np.random.Generator, allowed: Allowed | None) -> IntArray:
        n_axes = len(self.table.space.axes)
        if not self.budgets and not allowed:
            return sample_uniform(self.table.tree, n_axes, n, rng)
        budget = self.budgets[self._order[0]] if self.budgets else self._no_budget()
        program = self._counting_program(budget, allowed) if allowed else self._drivers[self._order[0]]
        kept = [np.zeros((0, n_axes), dtype=np.int64)]
        if program is None or (allowed and not self._each_reachable(allowed)):
            return kept[0]
        window = self._window(program, budget)
        counts = program.counts[window]
        if not counts.sum() > 0:
            return kept[0]
        never_rejected = program.exact and len(self.budgets) == 1
        have = tried = 0
        while have < n and tried < (PATIENCE if have else ROUNDS) * max(n, _MIN_DRAWS):
            count = n - have if never_rejected else max(n - have, _MIN_DRAWS)
            units = window.start + rng.choice(len(counts), size=count, p=counts / counts.sum())
            rows = program.draw(units, n_axes, rng)
            rows = rows[self.keeps(rows)]
            kept.append(rows)
            have += len(rows)
            tried += count
        return np.concatenate(kept)[:n] if have >= n else self._by_program(n - have, kept, rng, allowed)

    def _each_reachable(self, allowed: Allowed) -> bool:
        """Whether each of several budgets alone is feasible; True for fewer than two."""
        return len(self.budgets) < 2 or all(self._slack(b, allowed) is not None for b in self.budgets)

    def _no_budget(self) -> Budget:
        return Budget("macs", cost_range(self.table, "macs")[1], "100%")

    def keeps(self, rows: Sequence[Sequence[int]] | IntArray) -> npt.NDArray[np.bool_]:
        """`[N]`: whether each of `[N, A]` architectures is within every budget."""
        ok = np.ones(len(rows), dtype=bool)
        for budget in self.budgets:
            costs = self.table.totals(rows, budget.metric)
            ok &= (costs <= budget.limit) & (costs >= (budget.low or 0))
        return ok

    def _by_program(self, n: int, kept: list[IntArray], rng: np.random.Generator, allowed: Allowed | None) -> IntArray:
        """Appends up to `n` solutions of an integer program with a random objective to `kept`."""
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
                f"{b.metric} {b.text} (alone feasible: {metrics[b.metric].text(low)} to {metrics[b.metric].text(high)})"
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
    """One architecture within the budgets by integer programming with a random objective; None if none is found.

    Upper bounds are decided exactly in fractions of a second; with several narrow bands the solver may hit its limits.
    """
    return Program(table, budgets, allowed).minimise(lambda columns: rng.random(len(columns)), _PROGRAM)
