"""The exact optimum of an additive score within budgets: the knapsack behind bits by sensitivity.

What an architecture is worth is taken to be a sum over the axes that matter in it. Then the program that counts the
architectures of every cost (`cost.feasible`) finds the best of every cost, with the least in place of the sum: exact in
units of the costs' greatest common divisor. Where that would take too many units, and under several budgets, an integer
program (scipy's HiGHS) is exact in its place; floored units would lose optima that touch the budget.

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
"""Per axis, `[K]` what each candidate adds to the loss; an axis that does not matter adds nothing."""
_EXACT = {"mip_rel_gap": 0.0}
_CUTS = 1_000
_LARGEST = 1_000.0
"""What the largest difference is scaled to, since the solver's gap of 1e-6 is absolute."""


def loss_of(losses: Losses, architecture: Architecture, relevant: Sequence[bool]) -> float:
    """The sum for one architecture; `relevant` says per axis whether it matters there."""
    return float(sum(own[c] for own, c, keep in zip(losses, architecture, relevant, strict=True) if keep))


def optima(
    table: CostTable,
    losses: Losses,
    budgets: Sequence[Budget] = (),
    *,
    count: int = 1,
    allowed: Allowed | None = None,
) -> list[Architecture]:
    """The architectures of the least losses within budgets, the best first.

    Args:
        table: The costs of the space.
        losses: What every candidate adds.
        budgets: Bounds that hold together; none means the whole space.
        count: How many; fewer come back where fewer keep the budgets.
        allowed: Axis -> the candidates that it may take.

    Returns:
        At most `count` architectures; with one budget in countable units the first is the cheapest of equals.
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
    """`[1, A]` the optimum, or `[0, A]` where there is none; None where units cannot tell."""
    if len(budgets) > 1:
        return None
    budget = budgets[0] if budgets else Budget("macs", cost_range(table, "macs")[1], "100%")
    priced = price(table, budget.metric, allowed)
    out = np.zeros((1, len(table.space.axes)), dtype=np.int64)
    if priced is None:
        return out[:0]
    slack = min(budget.limit - table.constant(budget.metric), priced.high) - priced.low
    if slack < 0:
        return out[:0]
    unit = divisor(priced) or 1
    if slack // unit > feasible.MAX_UNITS:
        return None
    floor = 0 if budget.low is None else -(-(budget.low - table.constant(budget.metric) - priced.low) // unit)
    least = _Least(priced, slack // unit, unit, losses)
    return out if least.decide(max(0, floor), out[0]) else out[:0]


class _Least:
    """The least loss of the counts down every node that cost exactly so many units above its cheapest.

    Args:
        priced: The root of a priced tree.
        limit: The most units above the cheapest.
        unit: What one unit costs; every cost difference is a whole number of them.
        losses: What every candidate adds.
    """

    def __init__(self, priced: CostNode, limit: int, unit: int, losses: Losses) -> None:
        self.root, self.limit, self.unit, self.losses = priced, limit, unit, losses
        self._least: dict[int, Goal] = {}
        self._rest: dict[int, list[Goal]] = {}
        self._fill(priced)

    def _fill(self, p: CostNode) -> None:
        if id(p) in self._least:
            return
        for child in p.children:
            self._fill(child)
        if isinstance(p.node, Product):
            self._least[id(p)] = self._product(p)
            return
        parts = [(int(step), self._below(p, k)) for k, step in enumerate(p.extra // self.unit) if step <= self.limit]
        length = max(step + len(below) for step, below in parts)
        least = np.full(min(length, self.limit + 1), inf)
        for step, below in parts:
            room = least[step : step + len(below)]
            np.minimum(room, below[: len(room)], out=room)
        self._least[id(p)] = least

    def _below(self, p: CostNode, k: int) -> Goal:
        """The least loss with candidate `k` of a leaf or choice, by units beyond that candidate's own."""
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
        """Writes the optimum of at least `floor` units into `out`, `[A]`; False where there is none."""
        window = self._least[id(self.root)][floor:]
        if not len(window) or not isfinite(window.min()):
            return False
        self._walk(self.root, floor + int(window.argmin()), out)
        return True

    def _walk(self, p: CostNode, units: int, out: npt.NDArray[np.int64]) -> None:
        if isinstance(p.node, Product):
            for child, rest in zip(p.children, self._rest[id(p)][1:], strict=True):
                theirs = self._least[id(child)]
                spent = np.arange(max(0, units - len(rest) + 1), min(units + 1, len(theirs)))
                mine = int(spent[(theirs[spent] + rest[units - spent]).argmin()])
                self._walk(child, mine, out)
                units -= mine
            return
        ends = []
        for k, step in enumerate((p.extra // self.unit).tolist()):
            below = self._below(p, k) if step <= units else np.zeros(0)
            ends.append(float(below[units - step]) if step <= units < step + len(below) else inf)
        k = int(np.argmin(ends))
        out[p.node.axis] = p.candidates[k]
        if not isinstance(p.node, Leaf):
            self._walk(p.children[k], units - int(p.extra[k] // self.unit), out)


def _combine(a: Goal, b: Goal, limit: int) -> Goal:
    """The first `limit + 1` least sums of two independent parts, by units; by shifted rows of the sparser."""
    sa, sb = np.flatnonzero(np.isfinite(a)), np.flatnonzero(np.isfinite(b))
    if len(sa) > len(sb):
        a, b, sa = b, a, sb
    out = np.full(min(limit + 1, len(a) + len(b) - 1), inf)
    for shift in sa[sa < len(out)].tolist():
        room = out[shift : shift + len(b)]
        np.minimum(room, b[: len(room)] + a[shift], out=room)
    return out


def _by_program(
    table: CostTable,
    losses: Losses,
    budgets: Sequence[Budget],
    allowed: Allowed | None,
    known: Sequence[Architecture],
    count: int,
) -> list[Architecture]:
    """The next `count` best after those that are known."""
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
