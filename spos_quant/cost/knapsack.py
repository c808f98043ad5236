"""The exact minimum of an additive loss within budgets: a knapsack, which chooses bits by sensitivity.

The loss of an architecture is a sum over its relevant axes. The dynamic program is that of `cost.feasible` with minima
in place of sums: it finds the least loss per cost, in units of the greatest common divisor of all cost differences. If
there are too many units, or several budgets, an integer program (scipy's HiGHS) finds the exact minimum instead:
flooring to coarser units could lose an optimum that touches the budget.

References:
    [Dong2020] HAWQ-V2, arXiv 1911.03852, chooses bits by such sums; [Yao2021] HAWQ-V3, arXiv 2011.10680, by integer
    programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

import numpy as np
import numpy.typing as npt

from spos_quant.cost import feasible
from spos_quant.cost.budget import Budget, cost_range
from spos_quant.cost.feasible import Allowed, CostNode, divisor, price
from spos_quant.cost.integer_program import Goal, Program
from spos_quant.cost.table import CostTable
from spos_quant.space.search_space import Architecture, as_architectures
from spos_quant.space.tree import Leaf, Product

Losses = Sequence[npt.NDArray[np.float64]]
"""Per axis, the loss increase of each of its `[K]` candidates; irrelevant axes add nothing."""
_EXACT = {"mip_rel_gap": 0.0}
_CUTS = 1_000
_LARGEST = 1_000.0
"""The largest loss difference is scaled to this, since the solver's gap of 1e-6 is absolute."""


def loss_of(losses: Losses, architecture: Architecture, relevant: Sequence[bool]) -> float:
    """The additive loss of one architecture; `relevant` says per axis whether it counts."""
    return float(sum(own[c] for own, c, keep in zip(losses, architecture, relevant, strict=True) if keep))


def optima(
    table: CostTable,
    losses: Losses,
    budgets: Sequence[Budget] = (),
    *,
    count: int = 1,
    allowed: Allowed | None = None,
) -> list[Architecture]:
    """The architectures with the least losses within budgets, best first.

    Args:
        table: The costs of the space.
        losses: Loss increase of every candidate.
        budgets: Bounds that all must hold; none means the whole space.
        count: Number of architectures; fewer are returned if fewer are within the budgets.
        allowed: Axis -> its allowed candidates.

    Returns:
        At most `count` architectures. If the dynamic program is used, the first is the cheapest of equal losses.
    """
    found: list[Architecture] = []
    best = _by_units(table, losses, budgets, allowed)
    if best is not None:
        if not len(best):
            return []
        found = as_architectures(best)
    if len(found) < count:
        found += _by_program(table, losses, budgets, allowed, found, count - len(found))
    return found


def _by_units(
    table: CostTable, losses: Losses, budgets: Sequence[Budget], allowed: Allowed | None
) -> npt.NDArray[np.int64] | None:
    """The optimum by dynamic programming, `[1, A]`; `[0, A]` if infeasible; None if it does not apply."""
    if len(budgets) > 1:
        return None
    budget = budgets[0] if budgets else Budget("macs", cost_range(table, "macs")[1], "100%")
    root = price(table, budget.metric, allowed)
    out = np.zeros((1, len(table.space.axes)), dtype=np.int64)
    if root is None:
        return out[:0]
    slack = min(budget.limit - table.constant(budget.metric), root.high) - root.low
    if slack < 0:
        return out[:0]
    unit = divisor(root) or 1
    if slack // unit > feasible.MAX_UNITS:
        return None
    floor = 0 if budget.low is None else -(-(budget.low - table.constant(budget.metric) - root.low) // unit)
    minima = _MinimaProgram(root, slack // unit, unit, losses)
    return out if minima.decide(max(0, floor), out[0]) else out[:0]


class _MinimaProgram:
    """The least loss, per node and number of units above its cheapest.

    Args:
        root: The root of a cost tree.
        limit: Largest number of units above the cheapest.
        unit: Cost of one unit; every cost difference is a multiple of it.
        losses: Loss increase of every candidate.
    """

    def __init__(self, root: CostNode, limit: int, unit: int, losses: Losses) -> None:
        self.root, self.limit, self.unit, self.losses = root, limit, unit, losses
        self._least: dict[int, Goal] = {}
        self._rest: dict[int, list[Goal]] = {}
        """Per product node, the joint minima of its children from the i-th on."""
        self._fill(root)

    def _fill(self, p: CostNode) -> None:
        if id(p) in self._least:
            return
        for child in p.children:
            self._fill(child)
        if isinstance(p.node, Product):
            self._least[id(p)] = self._product(p)
            return
        parts = [(int(extra), self._below(p, k)) for k, extra in enumerate(p.extra // self.unit) if extra <= self.limit]
        length = max(extra + len(below) for extra, below in parts)
        least = np.full(min(length, self.limit + 1), inf)
        for extra, below in parts:
            window = least[extra : extra + len(below)]
            np.minimum(window, below[: len(window)], out=window)
        self._least[id(p)] = least

    def _below(self, p: CostNode, k: int) -> Goal:
        """The least loss with candidate `k` of a leaf or choice, by units above the cheapest with that candidate."""
        assert not isinstance(p.node, Product)
        own = self.losses[p.node.axis][p.candidates[k]]
        least: Goal = np.array([own]) if isinstance(p.node, Leaf) else self._least[id(p.children[k])] + own
        return least

    def _product(self, p: CostNode) -> Goal:
        least = np.zeros(1)
        rest = [least]
        for child in reversed(p.children):
            least = _combine(self._least[id(child)], least, self.limit)
            rest.append(least)
        self._rest[id(p)] = rest[::-1]
        return least

    def decide(self, floor: int, out: npt.NDArray[np.int64]) -> bool:
        """Writes the optimum that costs at least `floor` units into `out`, `[A]`; returns False if there is none."""
        window = self._least[id(self.root)][floor:]
        if not len(window) or not isfinite(window.min()):
            return False
        self._walk(self.root, floor + int(window.argmin()), out)
        return True

    def _walk(self, p: CostNode, units: int, out: npt.NDArray[np.int64]) -> None:
        if isinstance(p.node, Product):
            for child, rest in zip(p.children, self._rest[id(p)][1:], strict=True):
                least = self._least[id(child)]
                splits = np.arange(max(0, units - len(rest) + 1), min(units + 1, len(least)))
                spent = int(splits[(least[splits] + rest[units - splits]).argmin()])
                self._walk(child, spent, out)
                units -= spent
            return
        ends = []
        for k, extra in enumerate((p.extra // self.unit).tolist()):
            below = self._below(p, k) if extra <= units else np.zeros(0)
            ends.append(float(below[units - extra]) if extra <= units < extra + len(below) else inf)
        k = int(np.argmin(ends))
        out[p.node.axis] = p.candidates[k]
        if not isinstance(p.node, Leaf):
            self._walk(p.children[k], units - int(p.extra[k] // self.unit), out)


def _combine(a: Goal, b: Goal, limit: int) -> Goal:
    """The first `limit + 1` terms of the (min, +) convolution of two independent parts, by units."""
    sa, sb = np.flatnonzero(np.isfinite(a)), np.flatnonzero(np.isfinite(b))
    if len(sa) > len(sb):
        a, b, sa = b, a, sb
    out = np.full(min(limit + 1, len(a) + len(b) - 1), inf)
    for shift in sa[sa < len(out)].tolist():
        window = out[shift : shift + len(b)]
        np.minimum(window, b[: len(window)] + a[shift], out=window)
    return out


def _by_program(
    table: CostTable,
    losses: Losses,
    budgets: Sequence[Budget],
    allowed: Allowed | None,
    known: Sequence[Architecture],
    count: int,
) -> list[Architecture]:
    """The `count` best architectures other than `known`, by integer programming."""
    program = Program(table, budgets, allowed)
    for architecture in known:
        program.exclude(architecture)
    largest = max((float(np.ptp(own)) for own in losses if len(own)), default=0.0)
    scale = _LARGEST / largest if largest > 0 else 1.0

    def goal(columns: Sequence[tuple[int, int]]) -> Goal:
        return np.array([losses[axis][candidate] * scale for axis, candidate in columns])

    found: list[Architecture] = []
    for _ in range(count):
        row = program.minimise(goal, _EXACT, cuts=_CUTS)
        if row is None:
            break
        found += as_architectures(row[None])
        program.exclude(found[-1])
    return found
