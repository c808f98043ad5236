"""Conditional axes as a tree of independent decisions: the one structure behind size, sampling and budgets.

Axes that a condition or a cost term ties together cannot be decided independently. Deciding one of them (the axis that
the others depend on first) splits what remains into independent parts, and so on: a *choice* node has one child per
candidate, a *product* node one child per independent part, a *leaf* decides a single axis. Every canonical architecture
is exactly one way down the tree, so counts multiply and add exactly, whatever the size of the space.
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
"""A conjunction: every named axis takes one of the named candidates."""


@dataclass(frozen=True)
class Axis:
    """One decision with a finite list of candidates.

    Attributes:
        name: Such as `layer1.0.bits`.
        kind: `op`, `width`, `bits`, `weight_bits` or `act_bits`.
        candidates: The values to choose from.
        uses: The axis matters if any of these holds; otherwise its canonical candidate is 0.
    """

    name: str
    kind: str
    candidates: tuple[Any, ...]
    uses: tuple[Use, ...] = ((),)

    def relevant(self, decided: Mapping[int, int]) -> bool | None:
        """Whether the axis matters once `decided` (axis -> candidate) is; None where that is still open."""
        verdicts = [_holds(use, decided) for use in self.uses]
        return True if True in verdicts else None if None in verdicts else False


def _holds(use: Use, decided: Mapping[int, int]) -> bool | None:
    if any(axis in decided and decided[axis] not in allowed for axis, allowed in use):
        return False
    return True if all(axis in decided for axis, _ in use) else None


@dataclass(frozen=True)
class Leaf:
    """Decides `axis` alone. `terms` are fixed by it, each with the decisions above that it also depends on."""

    axis: int
    candidates: int
    terms: tuple[int, ...]
    decided: Mapping[int, int]
    size: int


@dataclass(frozen=True)
class Choice:
    """Decides `axis`, then goes on in the child of its candidate."""

    axis: int
    children: tuple[Product, ...]
    size: int


@dataclass(frozen=True)
class Product:
    """Independent parts. `terms` are fixed by what was decided above."""

    children: tuple[Leaf | Choice, ...]
    terms: tuple[int, ...]
    decided: Mapping[int, int]
    size: int


Node = Leaf | Choice | Product


def decompose(axes: Sequence[Axis], terms: Iterable[frozenset[int]] = ()) -> Product:
    """The decision tree of `axes`, where each of `terms` names the axes that a cost term depends on."""
    return _product(axes, {}, dict(enumerate(terms)), frozenset(range(len(axes))))


def _product(
    axes: Sequence[Axis], decided: dict[int, int], terms: dict[int, frozenset[int]], open_axes: frozenset[int]
) -> Product:
    open_axes = frozenset(a for a in open_axes if axes[a].relevant(decided) is not False)
    left = {t: frozenset(a for a in needs if a in open_axes) for t, needs in terms.items()}
    fixed = tuple(t for t, needs in left.items() if not needs)
    children = tuple(
        _part(axes, decided, {t: left[t] for t in left if left[t] and left[t] <= part}, part)
        for part in _parts(axes, open_axes, left.values(), decided)
    )
    return Product(children, fixed, decided, prod(child.size for child in children))


def _part(
    axes: Sequence[Axis], decided: dict[int, int], terms: dict[int, frozenset[int]], part: frozenset[int]
) -> Leaf | Choice:
    if len(part) == 1:
        (axis,) = part
        n = len(axes[axis].candidates)
        return Leaf(axis, n, tuple(terms), decided, n)
    # Deciding what others depend on, then what most terms share, leaves the most independent parts.
    depended = {a for axis in part for use in axes[axis].uses for a, _ in use if a != axis}
    best = max(sorted(part), key=lambda a: (a in depended, sum(a in needs for needs in terms.values())))
    children = tuple(
        _product(axes, {**decided, best: candidate}, terms, part - {best})
        for candidate in range(len(axes[best].candidates))
    )
    return Choice(best, children, sum(child.size for child in children))


def _parts(
    axes: Sequence[Axis], open_axes: frozenset[int], links: Iterable[frozenset[int]], decided: Mapping[int, int]
) -> list[frozenset[int]]:
    """Connected parts of the open axes, in the order of their first axis."""
    root = {a: a for a in open_axes}

    def find(a: int) -> int:
        while root[a] != a:
            root[a] = root[root[a]]
            a = root[a]
        return a

    conditions = (
        {a, *(b for use in axes[a].uses for b, _ in use if b in open_axes)}
        for a in open_axes
        if axes[a].relevant(decided) is None
    )
    for link in (*conditions, *links):
        ordered = sorted(link)
        for first, second in itertools.pairwise(ordered):
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
        # Python integers divide exactly at any size; the quotients are ordinary probabilities.
        share = np.array([child.size / node.size for child in node.children])
        picked = rng.choice(len(share), size=len(rows), p=share / share.sum())
        out[rows, node.axis] = picked
        for candidate, child in enumerate(node.children):
            chosen = rows[picked == candidate]
            if len(chosen):
                _sample(child, chosen, out, rng)
