"""The order of results, and the loop that drives a searcher."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_cases import Additive, architectures, generations, problem
from toy import toy_space

from spos_quant.cost.feasible import argmax_cost
from spos_quant.cost.table import CostTable
from spos_quant.searchers import base
from spos_quant.searchers.base import Evaluation, Objective, Scored, drive, searchers

NAN = float("nan")
# From best to worst without a least score: score, then loss (unknown is worst), then cost, then the tuple.
BY_SCORE = [
    Scored((9,), 0.9, 5.0, 900),
    Scored((8,), 0.8, 0.1, 700),
    Scored((1,), 0.8, 0.2, 300),
    Scored((2,), 0.8, 0.2, 300),
    Scored((0,), 0.8, 0.2, 301),
    Scored((3,), 0.8, None, 100),
    Scored((4,), 0.8, NAN, 100),
    Scored((5,), 0.8, None, 200),
    Scored((6,), 0.1, 0.0, 1),
]


@given(st.permutations(BY_SCORE))
def test_ranking_by_score_breaks_ties_in_the_documented_order(shuffled):
    assert sorted(shuffled, key=Objective().rank) == BY_SCORE


@given(st.permutations(BY_SCORE))
def test_ranking_by_loss_puts_the_score_second(shuffled):
    expected = [6, 8, 1, 2, 0, 9, 3, 4, 5]  # results without a known loss come last, by score
    assert [s.architecture for s in sorted(shuffled, key=Objective(rank_by="loss").rank)] == [(i,) for i in expected]
    dual = sorted(shuffled, key=Objective(least_score=2.0, rank_by="loss").rank)
    assert [s.architecture for s in dual] == [(i,) for i in expected]


@given(st.permutations(BY_SCORE))
def test_the_dual_ranks_by_cost_above_the_least_score_and_by_score_below(shuffled):
    expected = [
        Scored((3,), 0.8, None, 100),
        Scored((4,), 0.8, NAN, 100),
        Scored((5,), 0.8, None, 200),
        Scored((1,), 0.8, 0.2, 300),
        Scored((2,), 0.8, 0.2, 300),
        Scored((0,), 0.8, 0.2, 301),
        Scored((8,), 0.8, 0.1, 700),
        Scored((9,), 0.9, 5.0, 900),
        Scored((6,), 0.1, 0.0, 1),
    ]
    assert [s.architecture for s in sorted(shuffled, key=Objective(least_score=0.8).rank)] == [
        s.architecture for s in expected
    ]
    # no result reaches 2: the best score wins
    ranked = sorted(shuffled, key=Objective(least_score=2.0).rank)
    assert [s.architecture for s in ranked] == [s.architecture for s in BY_SCORE]


def test_argmax_cost_is_the_highest_cost_of_the_space():
    from toy import enumerate_space

    space = toy_space(2)
    p = problem(space, bitops="30%")
    for metric in ("bitops", "macs", "params"):
        table = CostTable(space)
        assert table.total(argmax_cost(p.sampler.table, metric), metric) == max(
            table.total(a, metric) for a in enumerate_space(space)
        )


def costs(p):
    return lambda asked: p.sampler.table.totals(asked, "bitops").tolist()


@pytest.mark.parametrize("name", list(searchers))
def test_drive_asks_evaluates_and_tells_until_the_end(name):
    space = toy_space(3)
    p, heard = problem(space, bitops="35%"), []
    outcome = drive(searchers[name](p), Additive(space), costs(p), p.sampler.keeps, on_result=heard.append)
    expected = generations(name, p, Additive(space))
    assert outcome.complete
    assert outcome.results == heard == [s for generation in expected for s in generation]
    assert outcome.generations == [i for i, generation in enumerate(expected) for _ in generation]
    assert outcome.best(Objective()) == min(heard, key=Objective().rank)
    cheap = Objective(least_score=-100.0)
    assert outcome.best(cheap).cost == min(s.cost for s in heard)


@pytest.mark.parametrize("after", [1, 5, 12, 13, 30])
def test_a_deadline_starts_no_further_evaluation_and_keeps_the_results(after, monkeypatch):
    space = toy_space(3)
    p = problem(space, bitops="35%")
    clock, function = itertools.count(), Additive(space)

    class Time:
        @staticmethod
        def monotonic():
            return next(clock)  # one tick per evaluation

    monkeypatch.setattr(base, "time", Time)
    outcome = drive(searchers["evolution"](p), function, costs(p), p.sampler.keeps, deadline=after - 1.5)
    monkeypatch.undo()
    assert not outcome.complete
    assert len(outcome.results) == len(function.asked) == after
    whole = drive(searchers["evolution"](p), Additive(space), costs(p), p.sampler.keeps)
    assert outcome.results == whole.results[:after]
    assert outcome.generations == whole.generations[:after]


def test_a_deadline_far_away_changes_nothing():
    space = toy_space(2)
    p = problem(space)
    one = drive(searchers["random"](p), Additive(space), costs(p), p.sampler.keeps, deadline=1e18)
    assert one == drive(searchers["random"](p), Additive(space), costs(p), p.sampler.keeps)


def test_a_missing_evaluation_is_an_error():
    space = toy_space(2)
    p = problem(space)
    with pytest.raises(ValueError, match="shorter"):
        drive(searchers["random"](p), lambda asked: [Evaluation(a, 0.0) for a in asked[1:]], costs(p), p.sampler.keeps)


def test_costs_belong_to_their_architectures():
    space = toy_space(3)
    p = problem(space)
    outcome = drive(searchers["evolution"](p), Additive(space), costs(p), p.sampler.keeps)
    table = CostTable(space)
    assert [s.cost for s in outcome.results] == [table.total(s.architecture) for s in outcome.results]
    assert len({s.cost for s in outcome.results}) > 10
    assert architectures([outcome.results])[0]
