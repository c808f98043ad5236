"""The architectures within budgets as an integer program for scipy's HiGHS.

The decision tree is a flow: the root carries 1, a product passes its flow to each part, a choice or leaf divides its
flow over candidates. Costs, and every score that is a sum over axes, are linear in the flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from spos_quant.cost.budget import Budget, keeps
from spos_quant.cost.feasible import Allowed, CostNode, price
from spos_quant.cost.table import CostTable
from spos_quant.space.tree import IntArray, Leaf, Product

_CUTS = 20
"""Default of `cuts` in `Program.minimise`."""
Goal = npt.NDArray[np.float64]


class Program:
    """Finds architectures within budgets that minimise a sum over their candidates.

    Args:
        table: The costs of the space.
        budgets: Bounds that all must hold; none means the whole space.
        allowed: Axis -> its allowed candidates.
    """

    def __init__(self, table: CostTable, budgets: Sequence[Budget], allowed: Allowed | None = None) -> None:
        self.table, self.budgets = table, list(budgets)
        trees = [price(table, metric, allowed) for metric in [b.metric for b in budgets] or ["macs"]]
        roots = [root for root in trees if root is not None]
        self._flow = _Flow(roots) if len(roots) == len(trees) else None
        self._constraints = [] if self._flow is None or not self._flow.n_columns else self._bounds(self._flow)

    def _bounds(self, flow: _Flow) -> list[LinearConstraint]:
        equalities = coo_array((flow.values, (flow.rows, flow.columns)), shape=(flow.n_rows, flow.n_columns))
        constraints = [LinearConstraint(equalities.tocsr(), flow.right, flow.right)]
        for k, budget in enumerate(self.budgets):
            line = np.array([costs[k] for costs in flow.costs], dtype=np.float64)
            scale = float(max(line.max(initial=0), 1))
            upper = (budget.limit - self.table.constant(budget.metric) - flow.fixed[k]) / scale
            lower = ((budget.low or 0) - self.table.constant(budget.metric) - flow.fixed[k]) / scale
            constraints.append(LinearConstraint(line[None] / scale, lower, upper))
        return constraints

    def exclude(self, architecture: Sequence[int]) -> None:
        """Removes an architecture from the feasible set."""
        assert self._flow is not None
        if self._flow.n_columns:
            self._cut(self._flow.chosen(architecture))
        else:  # a space without axes has a single architecture
            self._flow = None

    def _cut(self, chosen: npt.NDArray[np.bool_]) -> None:
        # No other architecture carries flow in all of these columns.
        self._constraints.append(LinearConstraint(chosen[None].astype(np.float64), -np.inf, float(chosen.sum()) - 1))

    def minimise(
        self, goal: Callable[[Sequence[tuple[int, int]]], Goal], options: Mapping[str, Any], *, cuts: int = _CUTS
    ) -> IntArray | None:
        """The architecture, `[A]` candidate indices, with the least sum that the solver finds; None if it finds none.

        Args:
            goal: Maps `[K]` pairs of axis and candidate to their `[K]` summands.
            options: Limits of the solver, passed to `scipy.optimize.milp`.
            cuts: Number of solver runs. A solution that exceeds a budget by less than the solver's tolerance is cut
                off, and the solver runs again.
        """
        flow, n_axes = self._flow, len(self.table.space.axes)
        if flow is None:
            return None
        if not flow.n_columns:
            return np.zeros(0, dtype=np.int64) if self._within(()) else None
        objective = goal(flow.meaning)
        for _ in range(cuts):
            done = milp(
                objective,
                constraints=self._constraints,
                integrality=np.ones(flow.n_columns),
                bounds=Bounds(0, 1),
                options=dict(options),
            )
            if done.x is None:
                return None
            chosen = done.x > 0.5
            row = flow.architecture(chosen, n_axes)
            if self._within(row.tolist()):
                return row
            self._cut(chosen)  # within the solver's tolerance, but not within the budgets
        return None

    def _within(self, architecture: Sequence[int]) -> bool:
        return keeps({b.metric: self.table.total(architecture, b.metric) for b in self.budgets}, self.budgets)


class _Flow:
    """The equality constraints of a decision tree, and the cost of every column (variable) in every metric."""

    def __init__(self, roots: list[CostNode]) -> None:
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.right: list[float] = []
        self.costs: list[list[int]] = []
        self.meaning: list[tuple[int, int]] = []
        """Per column, its axis and candidate."""
        self.sources: list[int | None] = []
        """Per column, the column whose flow it divides; None for the root's."""
        self.fixed = [0] * len(roots)
        self._add(roots, None)

    @property
    def n_rows(self) -> int:
        return len(self.right)

    @property
    def n_columns(self) -> int:
        return len(self.meaning)

    def architecture(self, chosen: npt.NDArray[np.bool_], n_axes: int) -> IntArray:
        """The candidate indices of the columns that carry flow."""
        row = np.zeros(n_axes, dtype=np.int64)
        for column in np.flatnonzero(chosen).tolist():
            axis, candidate = self.meaning[column]
            row[axis] = candidate
        return row

    def chosen(self, architecture: Sequence[int]) -> npt.NDArray[np.bool_]:
        """The columns that carry flow in an architecture."""
        chosen = np.zeros(self.n_columns, dtype=bool)
        for column, ((axis, candidate), source) in enumerate(zip(self.meaning, self.sources, strict=True)):
            chosen[column] = architecture[axis] == candidate and (source is None or chosen[source])
        return chosen

    def _own(self, nodes: list[CostNode]) -> list[int]:
        """Cost of a product node without its parts, per metric."""
        return [node.low - sum(child.low for child in node.children) for node in nodes]

    def _add(self, nodes: list[CostNode], source: int | None) -> None:
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
            self.sources.append(source)
            leaf = isinstance(nodes[0].node, Leaf)
            self.costs.append([int(n.low + n.extra[k]) if leaf else 0 for n in nodes])
            self._entry(row, column, 1.0)
            if not leaf:
                self._add([n.children[k] for n in nodes], column)

    def _entry(self, row: int, column: int, value: float) -> None:
        self.rows.append(row)
        self.columns.append(column)
        self.values.append(value)
