"""`FeasibleSampler`: architectures within budgets, drawn uniformly, and partial architectures completed within them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from spos_quant.cost.budget import Budget, cost_range, human
from spos_quant.cost.feasible import Allowed, Counted, Priced, price
from spos_quant.cost.table import CostTable
from spos_quant.errors import BudgetError
from spos_quant.space.search_space import Architecture, as_architectures
from spos_quant.space.tree import IntArray, Leaf, Product, sample_uniform

ROUNDS = 50


class FeasibleSampler:
    """Samples the architectures of a space that keep one or several budgets.

    One budget (or band): exactly uniform over the feasible architectures. Several at once: the tightest drives, draws
    that break another are rejected, which is still uniform; only where rejection keeps nothing in `ROUNDS` rounds does
    an integer program with a random objective (scipy's HiGHS) decide feasibility and give architectures, whose
    distribution is then no longer uniform.

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
                    f"feasible: {human(low)} to {human(high)}"
                )
        self._drivers = [self._counted(budget, None) for budget in self.budgets]
        self._order = sorted(range(len(self.budgets)), key=self._share)
        if len(self.budgets) > 1:
            self._check_together()

    def _counted(self, budget: Budget, allowed: Allowed | None) -> Counted | None:
        priced = price(self.table, budget.metric, allowed)
        if priced is None:
            return None
        headroom = min(budget.limit - self.table.constant(budget.metric), priced.high) - priced.low
        return Counted(priced, headroom) if headroom >= 0 else None

    def _window(self, counted: Counted, budget: Budget) -> slice:
        """The units that may end inside the budget's band."""
        if budget.low is None:
            return slice(0, counted.limit + 1)
        floor = (budget.low - self.table.constant(budget.metric) - counted.root.low) // counted.unit
        # Every part of an architecture may have lost up to a unit by flooring.
        return slice(max(0, floor - len(self.table.space.axes)), counted.limit + 1)

    def _share(self, index: int) -> float:
        counted = self._drivers[index]
        assert counted is not None
        return float(counted.ways[self._window(counted, self.budgets[index])].sum())

    @property
    def share(self) -> float:
        """The share of all architectures that the tightest budget allows (an upper bound where units are floored)."""
        return self._share(self._order[0]) if self.budgets else 1.0

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
        counted = self._drivers[self._order[0]] if allowed is None else self._counted(budget, allowed)
        empty = np.zeros((0, n_axes), dtype=np.int64)
        if counted is None:
            return empty
        window = self._window(counted, budget)
        ways = np.asarray(counted.ways[window], dtype=np.float64)
        if not ways.sum() > 0:
            return empty
        kept, have = [empty], 0
        for _ in range(ROUNDS):
            units = window.start + rng.choice(len(ways), size=max(n - have, 16), p=ways / ways.sum())
            rows = counted.draw(units, n_axes, rng)
            rows = rows[self._feasible(rows)]
            kept.append(rows)
            have += len(rows)
            if have >= n:
                return np.concatenate(kept)[:n]
        return self._by_program(n - have, kept, rng, allowed)

    def _no_budget(self) -> Budget:
        return Budget("macs", cost_range(self.table, "macs")[1], "100%")

    def _feasible(self, rows: IntArray) -> Any:
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
                f"{b.metric} {b.text} (alone feasible: {human(low)} to {human(high)})"
                for b in self.budgets
                for low, high in [cost_range(self.table, b.metric)]
            )
            raise BudgetError(
                f"no architecture of {self.table.space.name!r} keeps all budgets at once: {ranges}; raise one of them"
            )


def solve(
    table: CostTable, budgets: Sequence[Budget], rng: np.random.Generator, allowed: Allowed | None = None
) -> IntArray | None:
    """One architecture within the budgets by integer programming, with a random objective; None where there is none.

    The decision tree is a flow: the root carries 1, a product passes its flow to each part, a choice and a leaf divide
    theirs over candidates. Costs are linear in the flows.
    """
    priced = {b.metric: price(table, b.metric, allowed) for b in budgets}
    first = priced[budgets[0].metric]
    if first is None:
        return None
    flow = _Flow(list(priced.values()))  # type: ignore[arg-type]
    equalities = coo_array((flow.values, (flow.rows, flow.columns)), shape=(flow.n_rows, flow.n_columns))
    constraints = [LinearConstraint(equalities.tocsr(), flow.right, flow.right)]
    for k, budget in enumerate(budgets):
        line = np.array([costs[k] for costs in flow.costs], dtype=np.float64)
        scale = max(budget.limit, 1)
        spare = (budget.limit - table.constant(budget.metric) - flow.fixed[k]) / scale
        least = ((budget.low or 0) - table.constant(budget.metric) - flow.fixed[k]) / scale
        constraints.append(LinearConstraint(line[None] / scale, least, spare))
    done = milp(
        rng.random(flow.n_columns), constraints=constraints, integrality=np.ones(flow.n_columns), bounds=Bounds(0, 1)
    )
    if done.x is None:
        return None
    row = np.zeros(len(table.space.axes), dtype=np.int64)
    for column, (axis, candidate) in enumerate(flow.meaning):
        if done.x[column] > 0.5:
            row[axis] = candidate
    costs = {b.metric: table.total(row.tolist(), b.metric) for b in budgets}
    return row if all((b.low or 0) <= costs[b.metric] <= b.limit for b in budgets) else None


class _Flow:
    """The equality constraints of a decision tree, and the cost of every column in every metric."""

    def __init__(self, roots: list[Priced]) -> None:
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.right: list[float] = []
        self.costs: list[list[int]] = []
        self.meaning: list[tuple[int, int]] = []
        self.fixed = [0] * len(roots)
        self._add(roots, None)

    @property
    def n_rows(self) -> int:
        return len(self.right)

    @property
    def n_columns(self) -> int:
        return len(self.meaning)

    def _own(self, nodes: list[Priced]) -> list[int]:
        """What a product costs beyond its parts, per metric."""
        return [node.low - sum(child.low for child in node.children) for node in nodes]

    def _add(self, nodes: list[Priced], source: int | None) -> None:
        if isinstance(nodes[0].node, Product):
            for k, own in enumerate(self._own(nodes)):
                if source is None:
                    self.fixed[k] += own
                else:
                    self.costs[source][k] += own
            for parts in zip(*(node.children for node in nodes), strict=True):
                self._add(list(parts), source)
            return
        row = self.n_rows
        self.right.append(1.0 if source is None else 0.0)
        if source is not None:
            self._entry(row, source, -1.0)
        for k, candidate in enumerate(nodes[0].candidates.tolist()):
            column = self.n_columns
            self.meaning.append((nodes[0].node.axis, candidate))
            leaf = isinstance(nodes[0].node, Leaf)
            self.costs.append([int(n.low + n.extra[k]) if leaf else 0 for n in nodes])
            self._entry(row, column, 1.0)
            if not leaf:
                self._add([n.children[k] for n in nodes], column)

    def _entry(self, row: int, column: int, value: float) -> None:
        self.rows.append(row)
        self.columns.append(column)
        self.values.append(value)
