"""How well one judge orders architectures as another does: the supernet, held against training each alone.

References:
    [Kendall1945] The treatment of ties in ranking problems, Biometrika 33: tau-b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, spearmanr

from spos_quant.streams import Stream, generator

Values = npt.NDArray[np.float64]
BEST = (1, 3, 5, 10)
"""How many of the judge's favourites one might train."""
LEAST = 3
"""Architectures in a group that an order is read from."""
_RESAMPLES = 1_000


def kendall(a: Sequence[float] | Values, b: Sequence[float] | Values) -> float | None:
    """Kendall's tau-b [Kendall1945] in [-1, 1]; None where one side ties everywhere or there are fewer than two."""
    return _number(kendalltau(a, b, variant="b").statistic) if len(a) > 1 else None


def spearman(a: Sequence[float] | Values, b: Sequence[float] | Values) -> float | None:
    """Spearman's rank correlation in [-1, 1]; None where one side ties everywhere or there are fewer than two."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return _number(spearmanr(a, b).statistic)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def regret(judged: Values, truth: Values, k: int) -> float:
    """What is lost by training only the judge's `k` favourites: the best truth of all less the best among those.

    Where the judge ties, the favourites are those that the truth likes least: nobody can count on luck.
    """
    favourites = np.lexsort((truth, -judged))[:k]
    return float(truth.max() - truth[favourites].max())


def residuals(values: Values, costs: Values) -> Values:
    """What a parabola in the logarithm of the cost leaves unexplained (least squares)."""
    logs = np.log(np.maximum(costs, 1))
    spread = np.ptp(logs)
    if not spread:
        return np.asarray(values - values.mean())
    z = (logs - logs.mean()) / spread
    design = np.stack([np.ones_like(z), z, z * z], axis=1)
    fitted: Values = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    rest: Values = values - fitted
    # What is left of an exact fit is rounding, in which there is no order.
    rest[np.abs(rest) <= 1e-9 * max(1.0, float(np.abs(values).max()))] = 0.0
    return rest


def within(groups: Sequence[int], a: Values, b: Values) -> float | None:
    """The mean of tau-b over groups of at least `LEAST` architectures; None where there is none."""
    labels = np.asarray(groups)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    found = [kendall(a[m], b[m]) for m in members if len(m) >= LEAST]
    known = [tau for tau in found if tau is not None]
    return float(np.mean(known)) if known else None


def interval(
    statistic: Callable[[npt.NDArray[np.int64]], float | None], n: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % percentile interval of a statistic over resamples of `n` architectures.

    Args:
        statistic: Takes the `[n]` indices of a resample; resamples without a value are left out.
        n: Architectures.
        seed: Of the resamples.
    """
    rng = generator(Stream.RESAMPLES, seed)
    found = [statistic(rng.integers(n, size=n)) for _ in range(_RESAMPLES)]
    known = [value for value in found if value is not None]
    if not known:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def fidelity(
    judged: Sequence[float], truth: Sequence[float], costs: Sequence[int], strata: Sequence[int], *, seed: int
) -> dict[str, Any]:
    """How a judge orders `N` architectures, against their truth.

    Args:
        judged: `[N]` what the judge says; higher is better.
        truth: `[N]` what they are worth; higher is better.
        costs: `[N]`, since more bits mostly are better: two figures leave the cost out.
        strata: `[N]` groups of like cost.
        seed: Of the bootstrap.

    Returns:
        `kendall` with its `interval`, `spearman`, `within_strata` (mean tau over the strata), `residual` (tau of what
        the cost does not explain), and `regret` by number of favourites.
    """
    a, b, c = (np.asarray(x, dtype=np.float64) for x in (judged, truth, costs))
    rest_a, rest_b = residuals(a, c), residuals(b, c)
    labels = np.asarray(strata)
    return {
        "kendall": kendall(a, b),
        "interval": interval(lambda i: kendall(a[i], b[i]), len(a), seed),
        "spearman": spearman(a, b),
        "within_strata": within(labels.tolist(), a, b),
        "residual": kendall(rest_a, rest_b),
        "residual_interval": interval(lambda i: kendall(rest_a[i], rest_b[i]), len(a), seed),
        "regret": {str(k): regret(a, b, k) for k in BEST if k < len(a)},
    }


def ceiling(truths: Sequence[Sequence[float]], costs: Sequence[int], strata: Sequence[int]) -> dict[str, Any] | None:
    """How two trainings of the same architectures with different seeds order them: no judge can be held to more.

    Args:
        truths: Per seed, `[N]` what the architectures are worth.
        costs: `[N]`.
        strata: `[N]`.

    Returns:
        The means over pairs of seeds of `kendall`, `spearman`, `within_strata` and `residual`; None of a single seed.
    """
    c = np.asarray(costs, dtype=np.float64)
    found: dict[str, list[float | None]] = {}
    for first, second in combinations([np.asarray(t, dtype=np.float64) for t in truths], 2):
        rest = residuals(first, c), residuals(second, c)
        for name, value in (
            ("kendall", kendall(first, second)),
            ("spearman", spearman(first, second)),
            ("within_strata", within(strata, first, second)),
            ("residual", kendall(*rest)),
        ):
            found.setdefault(name, []).append(value)
    return {name: _mean(values) for name, values in found.items()} or None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
