"""The front of cost and score, and the area that it commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from spos_quant.searchers.base import Objective, Scored


def front(results: Iterable[Scored]) -> list[Scored]:
    """The results that no other beats in both cost and score, from cheap to dear.

    Of several with the same cost and score one stays, the first in the order of `Objective`; a dearer one of equal
    score is beaten.
    """
    kept: list[Scored] = []
    for scored in sorted(results, key=lambda s: (s.cost, *Objective().rank(s))):
        if not kept or scored.score > kept[-1].score:
            kept.append(scored)
    return kept


def contenders(costs: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The few of many results that can be on their front: nothing cheaper scores as high, nothing as cheap higher.

    Args:
        costs: `[N]`.
        scores: `[N]`.

    Returns:
        Ascending indices; of results with equal cost and score all are kept, for `front` to choose from.
    """
    order = np.lexsort((-scores, costs))
    _, first, group = np.unique(costs[order], return_index=True, return_inverse=True)
    best = scores[order][first]  # of each cost
    before = np.concatenate([[-np.inf], np.maximum.accumulate(best)[:-1]]) if len(best) else best
    kept = (scores[order] == best[group]) & (best[group] > before[group])
    return np.sort(order[kept])


def hypervolume(results: Sequence[Scored], *, cost: int, score: float) -> float:
    """The area that results command, as a share of the rectangle between a reference point and the ideal.

    A result commands every (cost, score) at its cost or above and at its score or below. The ideal costs nothing and
    scores 1.

    Args:
        results: Whatever was evaluated; only its front counts.
        cost: Of the reference point, above 0: what costs as much or more commands nothing.
        score: Of the reference point, below 1: what scores as little or less commands nothing.

    Returns:
        The exact share, in [0, 1].
    """
    kept = [one for one in front(results) if one.cost < cost and one.score > score]
    ends = [*(one.cost for one in kept), cost][1:]
    area = sum((end - one.cost) * (one.score - score) for one, end in zip(kept, ends, strict=True))
    return area / (cost * (1 - score))
