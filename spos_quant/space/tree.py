"""Conditional axes as a tree of independent decisions, which size, sampling and budgets are computed from.

Axes that share a condition or a cost term cannot be decided independently. Deciding one of them splits the rest into
independent parts, recursively: a *choice* node has one child per candidate, a *product* node one child per independent
part, a *leaf* decides a single axis. Every canonical architecture corresponds to exactly one way through the tree, so
that counts multiply (product) and add (choice) exactly, whatever the size of the space.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Use = tuple[tuple[int, frozenset[int]], ...]
"""A conjunction: every named axis takes one of its allowed candidates. Named axes are always relevant."""
_MAX_TRIED = 8
"""Axes that are compared as the next one to decide."""


@dataclass(frozen=True)
class Axis:
    """One decision with a finite list of candidates.

    Attributes:
        name: For example `layer1.0.bits`.
        kind: `op`, `width`, `bits`, `weight_bits` or `act_bits`.
        candidates: The values to choose from.
        uses: The axis is relevant if any of these holds; otherwise its canonical candidate is 0.
    """

    name: str
    kind: str
    candidates: tuple[Any, ...]
    uses: tuple[Use, ...] = ((),)

    def relevant(self, decided: Mapping[int, int]) -> bool | None:
        """Whether the axis is relevant given `decided` (axis -> candidate); None if that is still undecided."""
        verdicts = [_holds(use, decided) for use in self.uses]
        return True if True in verdicts else None if None in verdicts else False


def _holds(use: Use, decided: Mapping[int, int]) -> bool | None:
    if any(axis in decided and decided[axis] not in allowed for axis, allowed in use):
        return False
    return True if all(axis in decided for axis, _ in use) else None


@dataclass(frozen=True)
class Leaf:
    """Decides a single axis; `terms` are the cost terms that it and the ancestors' decisions (`decided`) determine."""

    axis: int
    candidates: int
    terms: tuple[int, ...]
    decided: Mapping[int, int]
    size: int


@dataclass(frozen=True)
class Choice:
    """Decides `axis`, then continues in the child of its candidate."""

    axis: int
    children: tuple[Product, ...]
    size: int


@dataclass(frozen=True)
class Product:
    """Independent parts; `terms` are the cost terms that the decisions of ancestors (`decided`) determine."""

    children: tuple[Leaf | Choice, ...]
    terms: tuple[int, ...]
    decided: Mapping[int, int]
    size: int


Node = Leaf | Choice | Product


def decompose(axes: Sequence[Axis], terms: Iterable[frozenset[int]] = ()) -> Product:
    """The decision tree of `axes`; each of `terms` holds the axes that a cost term depends on.

    Equal subtrees are one node, so that axes shared by many blocks do not multiply the tree.
    """
    builder = _Builder(axes, tuple(terms))
    return builder.product({}, range(len(axes)), range(len(builder.terms)))


class _Builder:
    """Builds the nodes of one tree."""

    def __init__(self, axes: Sequence[Axis], terms: tuple[frozenset[int], ...]) -> None:
        self.axes = axes
        self.terms = terms
        self._nodes: dict[tuple[Any, ...], Leaf | Choice] = {}

    def product(self, decided: dict[int, int], open_axes: Iterable[int], terms: Iterable[int]) -> Product:
        """The independent parts of `open_axes`; `terms` are those that no ancestor determined."""
        still = frozenset(a for a in open_axes if self.axes[a].relevant(decided) is not False)
        needs = {t: self.terms[t] & still for t in terms}
        parts = _parts(still, self._links(still, needs.values(), decided))
        part_of = {a: i for i, part in enumerate(parts) for a in part}
        theirs: list[list[int]] = [[] for _ in parts]
        fixed: list[int] = []
        for t, left in needs.items():
            (theirs[part_of[min(left)]] if left else fixed).append(t)
        children = tuple(self.part(decided, part, tuple(ts)) for part, ts in zip(parts, theirs, strict=True))
        return Product(children, tuple(fixed), decided, prod(child.size for child in children))

    def part(self, decided: dict[int, int], part: frozenset[int], terms: tuple[int, ...]) -> Leaf | Choice:
        """One connected part; the same node for all decisions of ancestors that agree on what it depends on."""
        needed = {a for x in part for use in self.axes[x].uses for a, _ in use}.union(*(self.terms[t] for t in terms))
        known = {a: decided[a] for a in sorted(needed) if a in decided}
        key = (part, terms, tuple(known.items()))
        if key not in self._nodes:
            self._nodes[key] = self._part(known, part, terms)
        return self._nodes[key]

    def _part(self, decided: dict[int, int], part: frozenset[int], terms: tuple[int, ...]) -> Leaf | Choice:
        if len(part) == 1:
            (axis,) = part
            n = len(self.axes[axis].candidates)
            return Leaf(axis, n, terms, decided, n)
        best = self._first(decided, part, terms)
        children = tuple(
            self.product({**decided, best: candidate}, sorted(part - {best}), terms)
            for candidate in range(len(self.axes[best].candidates))
        )
        return Choice(best, children, sum(child.size for child in children))

    def _first(self, decided: dict[int, int], part: frozenset[int], terms: tuple[int, ...]) -> int:
        """The axis to decide first: of those known to be relevant, the one that leaves the smallest parts."""
        links = self._links(part, [self.terms[t] & part for t in terms], decided)
        degree = {a: sum(a in link for link in links) for a in part}
        certain = [a for a in sorted(part) if self.axes[a].relevant(decided)]
        tried = sorted(certain, key=lambda a: -degree[a])[:_MAX_TRIED]

        def largest_left(axis: int) -> int:
            return max(map(len, _parts(part - {axis}, [link - {axis} for link in links])))

        return min(tried, key=largest_left)

    def _links(
        self, open_axes: frozenset[int], needs: Iterable[frozenset[int]], decided: Mapping[int, int]
    ) -> list[frozenset[int]]:
        """Sets of open axes that share a cost term or an undecided condition."""
        conditions = (
            frozenset({a, *(b for use in self.axes[a].uses for b, _ in use if b in open_axes)})
            for a in sorted(open_axes)
            if self.axes[a].relevant(decided) is None
        )
        return [link for link in (*conditions, *needs) if link]


def _parts(open_axes: frozenset[int], links: Iterable[frozenset[int]]) -> list[frozenset[int]]:
    """Connected components of the open axes, in order of their first axis."""
    root = {a: a for a in open_axes}

    def find(a: int) -> int:
        while root[a] != a:
            root[a] = root[root[a]]
            a = root[a]
        return a

    for link in links:
        for first, second in itertools.pairwise(sorted(link)):
            root[find(second)] = find(first)
    parts: dict[int, set[int]] = {}
    for a in sorted(open_axes):
        parts.setdefault(find(a), set()).add(a)
    return [frozenset(part) for part in parts.values()]


def sample_uniform(tree: Product, n_axes: int, n: int, rng: np.random.Generator) -> IntArray:
    """`[n, n_axes]` canonical architectures, each drawn uniformly from all of them."""
    out = np.zeros((n, n_axes), dtype=np.int64)
    _sample(tree, np.arange(n), out, rng)
    return out


def _sample(node: Node, rows: IntArray, out: IntArray, rng: np.random.Generator) -> None:
    if isinstance(node, Leaf):
        out[rows, node.axis] = rng.integers(node.candidates, size=len(rows))
    elif isinstance(node, Product):
        for part in node.children:
            _sample(part, rows, out, rng)
    else:
        # Python integers of any size divide to a correctly rounded float.
        share = np.array([child.size / node.size for child in node.children])
        picked = rng.choice(len(share), size=len(rows), p=share / share.sum())
        out[rows, node.axis] = picked
        for candidate, child in enumerate(node.children):
            chosen = rows[picked == candidate]
            if len(chosen):
                _sample(child, chosen, out, rng)
