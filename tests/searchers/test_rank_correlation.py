"""Rank statistics against their definitions, computed by counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spos_quant.searchers.rank_correlation import (
    ceiling,
    interval,
    kendall,
    rank_agreement,
    regret,
    residuals,
    spearman,
    within,
)

lists = st.integers(2, 9).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 5).map(float), min_size=n, max_size=n) for _ in range(2)))
)


def counted_tau(a, b):
    """Concordant minus discordant pairs, over the geometric mean of the numbers of untied pairs of each side."""
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    untied = [sum(1 for pair in signs if pair[k]) for k in (0, 1)]
    return sum(x * y for x, y in signs) / math.sqrt(untied[0] * untied[1]) if all(untied) else None


@given(lists)
def test_kendall_is_tau_b(pair):
    expected = counted_tau(*pair)
    assert kendall(*pair) == (None if expected is None else pytest.approx(expected))


@given(lists)
def test_spearman_is_the_correlation_of_mean_ranks(pair):
    ranks = [[sum(y < x for y in v) + sum(y == x for y in v) / 2 for x in v] for v in pair]
    constant = any(len(set(v)) == 1 for v in pair)
    expected = None if constant else pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman(*pair) == expected


@given(lists, st.integers(1, 9))
def test_regret_resolves_ties_pessimistically(pair, k):
    predicted, truth = (np.array(v) for v in pair)
    order = sorted(range(len(truth)), key=lambda i: (-predicted[i], truth[i]))[:k]
    assert regret(predicted, truth, k) == truth.max() - max(truth[i] for i in order)
    assert regret(truth, truth, k) == 0


def test_residuals_remove_what_the_cost_explains():
    costs = np.array([1e6, 2e6, 3e6, 5e6, 8e6, 1.3e7])
    logs = np.log(costs)
    explained = 0.2 + 0.1 * logs - 0.002 * logs**2
    assert kendall(residuals(explained, costs), costs) is None
    quality = np.array([3.0, -1.0, 2.0, -2.0, 1.0, -3.0])
    again = residuals(explained + 1e-3 * quality, costs)
    assert np.allclose(again, residuals(1e-3 * quality, costs))
    assert residuals(np.array([1.0, 3.0]), np.array([5.0, 5.0])).tolist() == [-1.0, 1.0]


def test_a_prediction_by_cost_alone_has_no_rank_correlation_within_strata():
    """A prediction from the cost alone is right overall and useless among architectures of equal cost."""
    rng = np.random.default_rng(0)
    strata = np.repeat(np.arange(5), 40)
    truth = strata + 0.1 * rng.standard_normal(200)
    predicted = strata + 0.1 * rng.standard_normal(200)
    assert kendall(predicted, truth) > 0.75
    assert abs(within(strata.tolist(), predicted, truth)) < 0.2
    assert within([0, 0, 1, 1], predicted[:4], truth[:4]) is None  # groups of two are too small


def test_within_is_the_mean_over_groups():
    a = np.array([1.0, 2, 3, 1, 2, 3, 7])
    b = np.array([1.0, 2, 3, 3, 2, 1, 7])
    assert within([0, 0, 0, 1, 1, 1, 2], a, b) == 0.0


def test_the_interval_contains_the_statistic_and_follows_from_the_seed():
    a = np.arange(12.0)
    b = np.array([0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10.0])
    found = interval(lambda i: kendall(a[i], b[i]), 12, seed=3)
    assert found == interval(lambda i: kendall(a[i], b[i]), 12, seed=3)
    low, high = found
    assert low < kendall(a, b) < high
    assert interval(lambda _: None, 12, seed=3) is None


def test_a_perfect_prediction_and_its_opposite():
    truth, costs, strata = [0.1, 0.4, 0.2, 0.9, 0.5, 0.7], [3, 5, 7, 20, 30, 40], [0, 0, 0, 1, 1, 1]
    found = rank_agreement(truth, truth, costs, strata, seed=0)
    assert [found[key] for key in ("kendall", "spearman", "within_strata", "residual")] == pytest.approx([1.0] * 4)
    assert found["regret"] == {"1": 0.0, "3": 0.0, "5": 0.0}
    against = rank_agreement([-t for t in truth], truth, costs, strata, seed=0)
    assert against["kendall"] == pytest.approx(-1)
    assert against["regret"]["1"] == pytest.approx(0.8)


def test_the_ceiling_is_the_mean_over_pairs_of_seeds():
    costs, strata = [1, 2, 3, 4], [0, 0, 0, 0]
    seeds = [[1.0, 2, 3, 4], [1.0, 2, 4, 3], [4.0, 3, 2, 1]]
    expected = np.mean([kendall(seeds[i], seeds[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert ceiling(seeds, costs, strata)["kendall"] == pytest.approx(expected)
    assert ceiling(seeds[:1], costs, strata) is None
