"""Exact sampling of the architectures that keep a budget, without hoping (design decision 0002).

The decision tree of a space (`spos_quant.space.tree`) turns sums into convolutions: every node knows how many ways down
it cost exactly `u` units more than its cheapest. Drawing a total from the root's counts and then each part from the
counts of its ways to reach that total is uniform over all feasible architectures. Units are the greatest common divisor
of all cost differences, so the counts are exact; where that would take more than `MAX_UNITS` units, differences are
floored to coarser ones and the few draws that end above the budget are rejected, which keeps the draws uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd, log10
from typing import Any

import numpy as np
import numpy.typing as npt

from spos_quant.cost.table import CostTable
from spos_quant.space.tree import Choice, IntArray, Leaf, Node, Product

MAX_UNITS = 16_384
Allowed = Mapping[int, Sequence[int]]
"""Axis -> the candidates it may take; axes that are not named may take all."""
Counts = npt.NDArray[Any]


@dataclass
class Priced:
    """A node with its cheapest and dearest way down, and what each candidate or child adds to the cheapest."""

    node: Node
    low: int
    high: int
    children: list[Priced] = field(default_factory=list)
    candidates: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    extra: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Cost above `low` of each candidate (leaf) or of each child's cheapest way (choice)."""


def price(table: CostTable, metric: str, allowed: Allowed | None = None) -> Priced | None:
    """The decision tree with its costs in one metric, restricted to `allowed`; None where nothing is left."""
    return _price(table, metric, table.tree, allowed or {})


def _price(table: CostTable, metric: str, node: Node, allowed: Allowed) -> Priced | None:
    if isinstance(node, Product):
        return _price_product(table, metric, node, allowed)
    candidates = np.asarray(allowed.get(node.axis, range(len(table.space.axes[node.axis].candidates))), dtype=np.int64)
    if isinstance(node, Leaf):
        costs = table.leaf_costs(node.terms, metric, dict(node.decided), node.axis)[candidates]
        if not len(costs):
            return None
        low = int(costs.min())
        return Priced(node, low, int(costs.max()), [], candidates, costs - low)
    priced = [(c, _price(table, metric, node.children[c], allowed)) for c in candidates]
    kept = [(c, child) for c, child in priced if child is not None]
    if not kept:
        return None
    low = min(child.low for _, child in kept)
    extra = np.array([child.low - low for _, child in kept], dtype=np.int64)
    picked = np.array([c for c, _ in kept], dtype=np.int64)
    return Priced(node, low, max(c.high for _, c in kept), [c for _, c in kept], picked, extra)


def _price_product(table: CostTable, metric: str, node: Product, allowed: Allowed) -> Priced | None:
    fixed = sum(table.term_value(t, metric, dict(node.decided)) for t in node.terms)
    children = []
    for part in node.children:
        child = _price(table, metric, part, allowed)
        if child is None:
            return None
        children.append(child)
    return Priced(node, fixed + sum(c.low for c in children), fixed + sum(c.high for c in children), children)


def _divisor(priced: Priced) -> int:
    """Greatest common divisor of every cost difference below a node; 0 where nothing differs."""
    inner = [_divisor(child) for child in priced.children]
    return gcd(*(int(e) for e in priced.extra), *inner)


class Counted:
    """How many ways down every node cost `u` units above its cheapest, for `u` up to a limit.

    Counts are scaled to the size of the node, so that they are probabilities under uniform sampling; beyond 10^250
    architectures extended precision keeps the rare ones from vanishing.
    """

    def __init__(self, priced: Priced, headroom: int) -> None:
        self.unit = _divisor(priced) or 1
        if headroom // self.unit > MAX_UNITS:
            self.unit = -(-headroom // MAX_UNITS)
        self.limit = headroom // self.unit
        big = log10(max(priced.node.size, 1)) > 250
        self.dtype: Any = np.longdouble if big else np.float64
        self.root = priced
        self._ways: dict[int, Counts] = {}
        self._rest: dict[int, list[Counts]] = {}
        self._count(priced)

    @property
    def ways(self) -> Counts:
        """`[limit + 1]` share of architectures per number of units above the cheapest, up to a common factor."""
        return self._ways[id(self.root)]

    def _count(self, p: Priced) -> Counts:
        for child in p.children:
            self._count(child)
        ways = np.zeros(self.limit + 1, dtype=self.dtype)
        units = p.extra // self.unit
        if isinstance(p.node, Leaf):
            inside = units <= self.limit
            np.add.at(ways, units[inside], self.dtype(1) / p.node.size)
        elif isinstance(p.node, Choice):
            for shift, child in zip(units.tolist(), p.children, strict=True):
                if shift <= self.limit:
                    share = self.dtype(child.node.size / p.node.size)
                    ways[shift:] += self._ways[id(child)][: self.limit + 1 - shift] * share
        else:
            ways[0] = 1
            rest = [ways]
            for child in reversed(p.children):
                ways = _convolve(self._ways[id(child)], ways, self.limit)
                rest.append(ways)
            self._rest[id(p)] = rest[::-1]
        self._ways[id(p)] = ways
        return ways

    def draw(self, units: IntArray, n_axes: int, rng: np.random.Generator) -> IntArray:
        """`[N, n_axes]` architectures, each uniform over those whose cost is its `units` above the cheapest."""
        out = np.zeros((len(units), n_axes), dtype=np.int64)
        self._draw(self.root, np.arange(len(units)), units, out, rng)
        return out

    def _draw(self, p: Priced, rows: IntArray, units: IntArray, out: IntArray, rng: np.random.Generator) -> None:
        if not len(rows):
            return
        if isinstance(p.node, Product):
            for i, child in enumerate(p.children):
                spent = self._split(self._ways[id(child)], self._rest[id(p)][i + 1], units, rng)
                self._draw(child, rows, spent, out, rng)
                units = units - spent
            return
        steps = p.extra // self.unit
        if isinstance(p.node, Leaf):
            weights = (steps[None, :] == units[:, None]).astype(np.float64)
        else:
            left = units[:, None] - steps[None, :]  # [N, K]
            shares = [self._ways[id(c)] * self.dtype(c.node.size / p.node.size) for c in p.children]
            columns = [np.where(left[:, k] >= 0, share[np.maximum(left[:, k], 0)], 0) for k, share in enumerate(shares)]
            weights = np.stack(columns, axis=1)
        picked = _pick(weights, rng)
        out[rows, p.node.axis] = p.candidates[picked]
        for k, child in enumerate(p.children):
            mine = picked == k
            self._draw(child, rows[mine], units[mine] - steps[k], out, rng)

    def _split(self, ways: Counts, rest: Counts, units: IntArray, rng: np.random.Generator) -> IntArray:
        """How many of `units` the next part spends, in proportion to its ways times the ways of the rest."""
        support = np.flatnonzero(ways)
        spent = np.empty_like(units)
        # Rows with the same units share one distribution; chunks bound the memory of the others.
        for start in range(0, len(units), 4096):
            chunk = units[start : start + 4096]
            distinct, inverse = np.unique(chunk, return_inverse=True)
            left = distinct[:, None] - support[None, :]
            weights = np.where(left >= 0, ways[support][None, :] * rest[np.maximum(left, 0)], 0)
            spent[start : start + 4096] = support[_pick(weights, rng, inverse)]
        return spent


def _convolve(a: Counts, b: Counts, limit: int) -> Counts:
    """The first `limit + 1` terms of a convolution; sparse operands by shifted sums, which is exact and fast."""
    sa, sb = np.flatnonzero(a), np.flatnonzero(b)
    if len(sa) > len(sb):
        a, b, sa, sb = b, a, sb, sa
    if len(sa) > 2048:
        result: Counts = np.convolve(a, b)[: limit + 1]
        return result
    out = np.zeros(limit + 1, dtype=a.dtype)
    for shift in sa.tolist():
        out[shift:] += a[shift] * b[: limit + 1 - shift]
    return out


def _pick(weights: Counts, rng: np.random.Generator, rows: IntArray | None = None) -> IntArray:
    """`[N]` column per row of `[R, K]` weights, drawn in proportion; `rows` repeats distinct rows."""
    cumulative = np.cumsum(weights, axis=1)
    rows = np.arange(len(weights)) if rows is None else rows
    # The product may round up to the total itself, which would fall behind the last column.
    point = rng.random(len(rows)) * cumulative[rows, -1]
    picked = (cumulative[rows] <= point[:, None]).sum(axis=1)
    last = weights.shape[1] - 1 - np.argmax(weights[:, ::-1] > 0, axis=1)
    result: IntArray = np.minimum(picked, last[rows]).astype(np.int64)
    return result


def extreme(table: CostTable, metric: str, *, dearest: bool) -> tuple[int, ...]:
    """The cheapest or the dearest architecture of a space in a metric; of several the first in order of candidates."""
    priced = price(table, metric)
    assert priced is not None
    decided = [0] * len(table.space.axes)
    _walk(priced, decided, dearest)
    return tuple(decided)


def _walk(p: Priced, decided: list[int], dearest: bool) -> None:
    if isinstance(p.node, Product):
        for child in p.children:
            _walk(child, decided, dearest)
        return
    if isinstance(p.node, Leaf):
        k = int(p.extra.argmax() if dearest else p.extra.argmin())
        decided[p.node.axis] = int(p.candidates[k])
        return
    ends = [child.high if dearest else -child.low for child in p.children]
    k = ends.index(max(ends))
    decided[p.node.axis] = int(p.candidates[k])
    _walk(p.children[k], decided, dearest)
