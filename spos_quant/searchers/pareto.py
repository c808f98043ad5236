"""The Pareto front of cost and score, and its hypervolume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from spos_quant.searchers.base import Objective, Scored


def front(results: Iterable[Scored]) -> list[Scored]:
    """The results that are not dominated in cost and score, by ascending cost.

    Of results with equal cost and score, only the first in the order of `Objective` stays. A result of equal score and
    higher cost is dominated.
    """
    kept: list[Scored] = []
    for scored in sorted(results, key=lambda s: (s.cost, *Objective().rank(s))):
        if not kept or scored.score > kept[-1].score:
            kept.append(scored)
    return kept


def pareto_candidates(costs: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Indices of the results that can be on the front: no cheaper one scores as high, no equally cheap one higher.

    Args:
        costs: `[N]`.
        scores: `[N]`.

    Returns:
        Ascending indices. Results with equal cost and score are all kept, for `front` to choose from.
    """
    order = np.lexsort((-scores, costs))
    _, first, group = np.unique(costs[order], return_index=True, return_inverse=True)
    best = scores[order][first]  # per distinct cost
    before = np.concatenate([[-np.inf], np.maximum.accumulate(best)[:-1]]) if len(best) else best
    kept = (scores[order] == best[group]) & (best[group] > before[group])
    return np.sort(order[kept])


def hypervolume(results: Sequence[Scored], *, cost: int, score: float) -> float:
    """The area dominated by results, as a share of the rectangle between a reference point and the ideal point.

    A result dominates every (cost, score) at its cost or above and at its score or below. The ideal point has cost 0
    and score 1.

    Args:
        results: Any evaluated results; only their front counts.
        cost: Cost of the reference point, above 0. Results of this cost or more dominate nothing.
        score: Score of the reference point, below 1. Results of this score or less dominate nothing.

    Returns:
        The exact share, in [0, 1].
    """
    kept = [one for one in front(results) if one.cost < cost and one.score > score]
    ends = [*(one.cost for one in kept), cost][1:]
    area = sum((end - one.cost) * (one.score - score) for one, end in zip(kept, ends, strict=True))
    return area / (cost * (1 - score))
