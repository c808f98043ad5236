"""The Pareto front and its hypervolume against brute-force counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spos_quant.searchers.base import Objective, Scored
from spos_quant.searchers.pareto import front, hypervolume, pareto_candidates

results = st.lists(
    st.builds(
        Scored,
        architecture=st.tuples(st.integers(0, 9), st.integers(0, 9)),
        score=st.integers(0, 5).map(float),
        loss=st.one_of(st.none(), st.integers(0, 2).map(float)),
        cost=st.integers(1, 8),
    ),
    max_size=12,
    unique_by=lambda s: s.architecture,
)


@given(results)
def test_front_is_the_set_of_non_dominated_results(found):
    kept = front(found)
    assert [s.cost for s in kept] == sorted({s.cost for s in kept})
    assert [s.score for s in kept] == sorted({s.score for s in kept})

    def dominated_by_any(s):
        return any(o.cost <= s.cost and o.score >= s.score and (o.cost < s.cost or o.score > s.score) for o in found)

    assert {(s.cost, s.score) for s in kept} == {(s.cost, s.score) for s in found if not dominated_by_any(s)}
    for s in kept:  # of equal results the one that ranks first
        equals = [o for o in found if (o.cost, o.score) == (s.cost, s.score)]
        assert s == min(equals, key=Objective().rank)


@given(results)
def test_the_front_of_the_contenders_is_the_front_of_all(found):
    costs = np.array([s.cost for s in found], dtype=np.int64)
    kept = pareto_candidates(costs, np.array([s.score for s in found], dtype=np.float64))
    assert front(found[i] for i in kept.tolist()) == front(found)
    best = {(s.cost, s.score) for s in front(found)}
    assert kept.tolist() == [i for i, s in enumerate(found) if (s.cost, s.score) in best]


@given(results, st.integers(1, 9), st.integers(0, 4))
def test_hypervolume_is_the_share_of_dominated_cells(found, cost, level):
    """Costs and scores on a grid: a cell of 1 x 1/5 is dominated as a whole or not at all."""
    found = [Scored(s.architecture, s.score / 5, s.loss, s.cost) for s in found]
    cells = [(x, y) for x in range(cost) for y in range(level, 5)]
    dominated = [(x, y) for x, y in cells if any(s.cost <= x and s.score >= (y + 1) / 5 for s in found)]
    assert hypervolume(found, cost=cost, score=level / 5) == pytest.approx(len(dominated) / len(cells))


@given(results, results)
def test_more_evaluations_never_lower_the_hypervolume(found, more):
    before = hypervolume(found, cost=9, score=0.5)
    assert before <= hypervolume([*found, *more], cost=9, score=0.5) + 1e-12


def test_a_front_keeps_every_trade_off():
    """One point per trade-off, independent of the order of the results."""
    line = [Scored((i,), i / 10, None, i + 1) for i in range(8)]
    dominated = [Scored((10 + i,), i / 10, None, i + 2) for i in range(8)]
    assert front([*dominated, *reversed(line)]) == line
