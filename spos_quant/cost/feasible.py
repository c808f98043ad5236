"""Exact uniform sampling of the architectures within a budget, by dynamic programming (design decision 0002).

Every node of a space's decision tree (`spos_quant.space.tree`) counts the architectures below it that cost exactly `u`
units more than its cheapest. Counts of a product node are convolutions. Drawing a total from the root's counts, then
splitting it over the parts in proportion to their counts, is uniform over all feasible architectures. The unit is the
greatest common divisor of all cost differences, so that counts are exact. If that takes more than `MAX_UNITS` units,
differences are floored to a coarser unit, and the few draws above the budget are rejected, which keeps draws uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, gcd, inf, log

import numpy as np
import numpy.typing as npt

from spos_quant.cost.table import CostTable
from spos_quant.space.tree import Choice, IntArray, Leaf, Node, Product

MAX_UNITS = 16_384
_CHUNK = 2**20
"""Elements of the largest matrix of a draw."""
Allowed = Mapping[int, Sequence[int]]
"""Axis -> its allowed candidates; other axes may take all."""
Counts = npt.NDArray[np.float64]


@dataclass
class CostNode:
    """A tree node with the least (`low`) and the largest (`high`) cost of the architectures below it."""

    node: Node
    low: int
    high: int
    children: list[CostNode] = field(default_factory=list)
    candidates: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    extra: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Cost above `low` of each candidate (leaf) or of the cheapest architecture of each child (choice)."""


def price(table: CostTable, metric: str, allowed: Allowed | None = None) -> CostNode | None:
    """The decision tree with its costs in one metric, restricted to `allowed`; None if no architecture is left."""
    return _NodeBuilder(table, metric, allowed or {}).build(table.tree)


class _NodeBuilder:
    """Builds the cost node of every tree node once; subtrees are shared."""

    def __init__(self, table: CostTable, metric: str, allowed: Allowed) -> None:
        self.table = table
        self.metric = metric
        self.allowed = {axis: np.unique(np.asarray(some, dtype=np.int64)) for axis, some in allowed.items()}
        self._built: dict[int, CostNode | None] = {}

    def build(self, node: Node) -> CostNode | None:
        """The cost node of `node` and all below it; None if no candidates are allowed there."""
        if id(node) not in self._built:
            self._built[id(node)] = self._build(node)
        return self._built[id(node)]

    def _build(self, node: Node) -> CostNode | None:
        if isinstance(node, Product):
            return self._product(node)
        return self._leaf(node) if isinstance(node, Leaf) else self._choice(node)

    def _candidates(self, node: Leaf | Choice) -> IntArray:
        candidates = self.allowed.get(node.axis)
        return np.arange(len(self.table.space.axes[node.axis].candidates)) if candidates is None else candidates

    def _leaf(self, node: Leaf) -> CostNode | None:
        candidates = self._candidates(node)
        if not len(candidates):
            return None
        costs = self.table.leaf_costs(node.terms, self.metric, dict(node.decided), node.axis)[candidates]
        low = int(costs.min())
        return CostNode(node, low, int(costs.max()), [], candidates, costs - low)

    def _choice(self, node: Choice) -> CostNode | None:
        built = [(c, self.build(node.children[c])) for c in self._candidates(node).tolist()]
        kept = [(c, child) for c, child in built if child is not None]
        if not kept:
            return None
        low = min(child.low for _, child in kept)
        extra = np.array([child.low - low for _, child in kept], dtype=np.int64)
        picked = np.array([c for c, _ in kept], dtype=np.int64)
        return CostNode(node, low, max(c.high for _, c in kept), [c for _, c in kept], picked, extra)

    def _product(self, node: Product) -> CostNode | None:
        fixed = sum(self.table.term_value(t, self.metric, dict(node.decided)) for t in node.terms)
        children = []
        for part in node.children:
            child = self.build(part)
            if child is None:
                return None
            children.append(child)
        return CostNode(node, fixed + sum(c.low for c in children), fixed + sum(c.high for c in children), children)


def divisor(root: CostNode) -> int:
    """Greatest common divisor of all cost differences below a node; 0 if all costs are equal."""
    return _divisor(root, {})


def _divisor(p: CostNode, known: dict[int, int]) -> int:
    if id(p) not in known:
        inner = [_divisor(child, known) for child in p.children]
        known[id(p)] = gcd(*p.extra.tolist(), *inner)
    return known[id(p)]


class CountingProgram:
    """Counts, per node, the architectures below it that cost `u` units more than its cheapest, for `u` up to a limit.

    Counts exceed the range of floats, so every node's counts are scaled to at most 1, and the logarithm of the scale is
    kept separately. Counts that underflow are 10^300 times rarer than others as cheap, and so are never drawn.

    Args:
        root: The root of a cost tree.
        slack: Largest cost above the cheapest architecture.
        bounded: False if `slack` excludes nothing; then all costs share one unit.

    Attributes:
        unit: Cost of one unit.
        exact: Whether every cost difference is a whole number of units; otherwise differences are floored.
        limit: Largest number of units above the cheapest.
    """

    def __init__(self, root: CostNode, slack: int, *, bounded: bool = True) -> None:
        exact_unit = divisor(root) or 1
        self.exact = slack // exact_unit <= MAX_UNITS
        self.unit = exact_unit if self.exact else -(-slack // MAX_UNITS)
        if not bounded:
            self.exact, self.unit = False, slack + 1
        self.limit = slack // self.unit
        self.root = root
        self._counts: dict[int, Counts] = {}
        self._log: dict[int, float] = {}
        self._rest: dict[int, list[Counts]] = {}
        """Per product node, the joint counts of its children from the i-th on."""
        self._count(root)

    @property
    def counts(self) -> Counts:
        """`[limit + 1]` architectures per number of units above the cheapest, up to a common factor."""
        counts = self._counts[id(self.root)]
        return np.pad(counts, (0, self.limit + 1 - len(counts)))

    def log_share(self, window: slice) -> float:
        """The natural logarithm of the share of all architectures whose units are in `window`."""
        some = float(self.counts[window].sum())
        return log(some) + self._log[id(self.root)] - log(self.root.node.size) if some > 0 else -inf

    def _count(self, p: CostNode) -> None:
        if id(p) in self._counts:
            return
        for child in p.children:
            self._count(child)
        if isinstance(p.node, Leaf):
            units = p.extra // self.unit
            counts, scale = np.bincount(units[units <= self.limit]).astype(np.float64), 0.0
        elif isinstance(p.node, Choice):
            counts, scale = self._count_choice(p)
        else:
            counts, scale = self._count_product(p)
        most = counts.max()
        self._counts[id(p)] = counts / most
        self._log[id(p)] = scale + log(most)

    def _count_choice(self, p: CostNode) -> tuple[Counts, float]:
        units = (p.extra // self.unit).tolist()
        reached = [(extra, child) for extra, child in zip(units, p.children, strict=True) if extra <= self.limit]
        length = max(extra + len(self._counts[id(child)]) for extra, child in reached)
        counts = np.zeros(min(length, self.limit + 1))
        scale = max(self._log[id(child)] for _, child in reached)
        for extra, child in reached:
            own = self._counts[id(child)][: len(counts) - extra]
            counts[extra : extra + len(own)] += own * exp(self._log[id(child)] - scale)
        return counts, scale

    def _count_product(self, p: CostNode) -> tuple[Counts, float]:
        counts, scale = np.ones(1), 0.0
        rest = [counts]
        for child in reversed(p.children):
            counts = _convolve(self._counts[id(child)], counts, self.limit)
            scale += self._log[id(child)] + log(counts.max())
            counts = counts / counts.max()
            rest.append(counts)
        self._rest[id(p)] = rest[::-1]
        return counts, scale

    def draw(self, units: IntArray, n_axes: int, rng: np.random.Generator) -> IntArray:
        """`[N, n_axes]` architectures; the i-th is uniform over those that cost `units[i]` above the cheapest."""
        out = np.zeros((len(units), n_axes), dtype=np.int64)
        self._draw(self.root, np.arange(len(units)), units, out, rng)
        return out

    def _draw(self, p: CostNode, rows: IntArray, units: IntArray, out: IntArray, rng: np.random.Generator) -> None:
        if not len(rows):
            return
        if isinstance(p.node, Product):
            for i, child in enumerate(p.children):
                spent = self._split(self._counts[id(child)], self._rest[id(p)][i + 1], units, rng)
                self._draw(child, rows, spent, out, rng)
                units = units - spent
            return
        left = units[:, None] - (p.extra // self.unit)[None, :]  # [N, K]
        if isinstance(p.node, Leaf):
            picked = _pick((left == 0).astype(np.float64), rng)
        else:
            scale = max(self._log[id(child)] for child in p.children)
            columns = [
                _at(self._counts[id(child)], left[:, k]) * exp(self._log[id(child)] - scale)
                for k, child in enumerate(p.children)
            ]
            picked = _pick(np.stack(columns, axis=1), rng)
        out[rows, p.node.axis] = p.candidates[picked]
        for k, child in enumerate(p.children):
            mine = picked == k
            self._draw(child, rows[mine], left[mine, k], out, rng)

    def _split(self, counts: Counts, rest: Counts, units: IntArray, rng: np.random.Generator) -> IntArray:
        """Draws how many of `units` the next part takes, in proportion to its counts times the counts of the rest."""
        support = np.flatnonzero(counts)
        spent = np.empty_like(units)
        chunk = max(1, _CHUNK // len(support))
        # Rows with equal units share one distribution. Chunks bound the memory.
        for start in range(0, len(units), chunk):
            distinct, inverse = np.unique(units[start : start + chunk], return_inverse=True)
            weights = counts[support][None, :] * _at(rest, distinct[:, None] - support[None, :])
            spent[start : start + chunk] = support[_pick(weights, rng, inverse)]
        return spent


def _at(counts: Counts, units: IntArray) -> Counts:
    """`counts[units]`, 0 if out of range."""
    inside = (units >= 0) & (units < len(counts))
    return np.where(inside, counts[np.where(inside, units, 0)], 0.0)


def _convolve(a: Counts, b: Counts, limit: int) -> Counts:
    """The first `limit + 1` terms of a convolution, as shifted sums: all terms are positive, so nothing cancels."""
    sa, sb = np.flatnonzero(a), np.flatnonzero(b)
    if len(sa) > len(sb):
        a, b, sa = b, a, sb
    out = np.zeros(min(limit + 1, len(a) + len(b) - 1))
    for shift in sa[sa < len(out)].tolist():
        other = b[: len(out) - shift]
        out[shift : shift + len(other)] += a[shift] * other
    return out


def _pick(weights: Counts, rng: np.random.Generator, rows: IntArray | None = None) -> IntArray:
    """`[N]` columns, each drawn in proportion to a row of the `[R, K]` weights; `rows` (`[N]`) selects the rows."""
    cumulative = np.cumsum(weights, axis=1)
    rows = np.arange(len(weights)) if rows is None else rows
    # The product may round up to the total, which would select a column after the last.
    point = rng.random(len(rows)) * cumulative[rows, -1]
    picked = (cumulative[rows] <= point[:, None]).sum(axis=1)
    last = weights.shape[1] - 1 - np.argmax(weights[:, ::-1] > 0, axis=1)
    result: IntArray = np.minimum(picked, last[rows]).astype(np.int64)
    return result


def argmax_cost(table: CostTable, metric: str, *, allowed: Allowed | None = None) -> tuple[int, ...]:
    """The most expensive architecture of a space in a metric; ties go to the first candidates.

    Args:
        table: The costs of the space.
        metric: A registered cost metric.
        allowed: Axis -> its allowed candidates, at least one.
    """
    return _extreme(table, metric, allowed, largest=True)


def argmin_cost(table: CostTable, metric: str, *, allowed: Allowed | None = None) -> tuple[int, ...]:
    """The cheapest architecture of a space in a metric; arguments as in `argmax_cost`."""
    return _extreme(table, metric, allowed, largest=False)


def _extreme(table: CostTable, metric: str, allowed: Allowed | None, *, largest: bool) -> tuple[int, ...]:
    root = price(table, metric, allowed)
    assert root is not None
    decided = [0] * len(table.space.axes)
    _walk(root, decided, largest)
    return tuple(decided)


def _walk(p: CostNode, decided: list[int], largest: bool) -> None:
    if isinstance(p.node, Product):
        for child in p.children:
            _walk(child, decided, largest)
        return
    if isinstance(p.node, Leaf):
        k = int(p.extra.argmax() if largest else p.extra.argmin())
        decided[p.node.axis] = int(p.candidates[k])
        return
    ends = [child.high if largest else -child.low for child in p.children]
    k = ends.index(max(ends))
    decided[p.node.axis] = int(p.candidates[k])
    _walk(p.children[k], decided, largest)
