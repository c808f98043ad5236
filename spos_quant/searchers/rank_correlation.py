"""Rank agreement of predicted scores (from the supernet) with true scores (from training each architecture alone).

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
"""Values of k for `regret`: how many of the best predicted architectures are trained."""
LEAST = 3
"""Minimum number of architectures in a group for `within`."""
_RESAMPLES = 1_000


def kendall(a: Sequence[float] | Values, b: Sequence[float] | Values) -> float | None:
    """Kendall's tau-b [Kendall1945] in [-1, 1]; None if one side is constant or has fewer than two values."""
    return _number(kendalltau(a, b, variant="b").statistic) if len(a) > 1 else None


def spearman(a: Sequence[float] | Values, b: Sequence[float] | Values) -> float | None:
    """Spearman's rank correlation in [-1, 1]; None if one side is constant or has fewer than two values."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return _number(spearmanr(a, b).statistic)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def regret(predicted: Values, truth: Values, k: int) -> float:
    """The loss from training only the `k` best predicted architectures: the best true score less the best among those.

    Ties of the prediction are resolved pessimistically, towards the lower true score.
    """
    chosen = np.lexsort((truth, -predicted))[:k]
    return float(truth.max() - truth[chosen].max())


def residuals(values: Values, costs: Values) -> Values:
    """The residuals of `values` after a least-squares fit of a parabola in the logarithm of the cost."""
    logs = np.log(np.maximum(costs, 1))
    spread = np.ptp(logs)
    if not spread:
        return np.asarray(values - values.mean())
    z = (logs - logs.mean()) / spread
    design = np.stack([np.ones_like(z), z, z * z], axis=1)
    fitted: Values = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    rest: Values = values - fitted
    # After an exact fit only rounding errors remain; their order is meaningless.
    rest[np.abs(rest) <= 1e-9 * max(1.0, float(np.abs(values).max()))] = 0.0
    return rest


def within(groups: Sequence[int], a: Values, b: Values) -> float | None:
    """The mean of tau-b over groups of at least `LEAST` architectures; None if there are none."""
    labels = np.asarray(groups)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    found = [kendall(a[m], b[m]) for m in members if len(m) >= LEAST]
    known = [tau for tau in found if tau is not None]
    return float(np.mean(known)) if known else None


def interval(
    statistic: Callable[[npt.NDArray[np.int64]], float | None], n: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % bootstrap percentile interval of a statistic over resamples of `n` architectures.

    Args:
        statistic: Takes the `[n]` indices of a resample; resamples for which it returns None are skipped.
        n: Number of architectures.
        seed: Seed of the resamples.
    """
    rng = generator(Stream.RESAMPLES, seed)
    found = [statistic(rng.integers(n, size=n)) for _ in range(_RESAMPLES)]
    known = [value for value in found if value is not None]
    if not known:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def rank_agreement(
    predicted: Sequence[float], truth: Sequence[float], costs: Sequence[int], strata: Sequence[int], *, seed: int
) -> dict[str, Any]:
    """The rank agreement of predicted with true scores of `N` architectures.

    Args:
        predicted: `[N]` predicted scores; higher is better.
        truth: `[N]` true scores; higher is better.
        costs: `[N]` costs. More bits mostly score higher, so `within_strata` and `residual` correct for the cost.
        strata: `[N]` labels of groups of similar cost.
        seed: Seed of the bootstrap.

    Returns:
        `kendall` with its `interval`, `spearman`, `within_strata` (mean tau over the strata), `residual` (tau of the
        residuals after a fit of the cost) with its `residual_interval`, and `regret` by `k`.
    """
    a, b, c = (np.asarray(x, dtype=np.float64) for x in (predicted, truth, costs))
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
    """The rank agreement of trainings of the same architectures with different seeds: an upper bound for predictions.

    Args:
        truths: Per seed, `[N]` true scores.
        costs: `[N]` costs.
        strata: `[N]` labels of groups of similar cost.

    Returns:
        The means over pairs of seeds of `kendall`, `spearman`, `within_strata` and `residual`; None for a single seed.
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
