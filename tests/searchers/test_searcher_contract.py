"""The contract of every registered searcher, on small test spaces without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from search_cases import SMALL, Additive, architectures, generations, problem
from toy import enumerate_space, toy_space

from spos_quant.cost.budget import cost_range
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError
from spos_quant.searchers.base import Objective, searchers

NAMES = list(searchers)
POPULATIONS = ("evolution", "random")
"""Searchers that ask for `search.generations` feasible populations; the knapsack has its own tests."""
CASES = {
    "no budget": ({}, {}),
    "one budget": ({}, {"bitops": "35%"}),
    "two budgets": ({"bits_per": "layer"}, {"bitops": "40%", "params": "60%"}),
    "two bits axes": (
        {"axes": {"op": ["conv", "wide"], "width": [0.5, 1.0], "weight_bits": [2, 4], "act_bits": [2, 3, None]}},
        {"weight_bytes": "80%"},
    ),
    "full precision": ({"axes": {"op": ["conv", "wide", "skip"], "width": [0.5, 0.75, 1.0]}}, {"macs": "70%"}),
}
SPACES = {case: toy_space(3, **changes) for case, (changes, _) in CASES.items()}


def test_the_built_in_searchers_are_registered():
    assert {"evolution", "random", "knapsack"} <= set(NAMES)
    with pytest.raises(ConfigError, match="unknown searcher 'evolutoin'; did you mean 'evolution'"):
        searchers["evolutoin"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", POPULATIONS)
def test_stays_within_budgets_and_never_asks_twice(name, case):
    space, budgets = SPACES[case], CASES[case][1]
    p = problem(space, **budgets)
    asked = architectures(generations(name, p, Additive(space)))
    flat = [a for generation in asked for a in generation]
    assert [len(generation) for generation in asked] == [SMALL.population] * SMALL.generations
    assert len(set(flat)) == len(flat)
    assert all(space.canonical(a) == a for a in flat)
    for budget in p.sampler.budgets:
        costs = p.sampler.table.totals(flat, budget.metric)
        assert costs.max() <= budget.limit
        # the budget is a real constraint: uniform samples of the space exceed it
        free = p.sampler.table.totals(space.sample_many(np.random.default_rng(0), 200), budget.metric)
        assert free.max() > budget.limit


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", POPULATIONS)
def test_asks_follow_from_the_seed(name, case):
    space, budgets = SPACES[case], CASES[case][1]

    config = SMALL.model_copy(update={"generations": 2})

    def asked(seed: int):
        return architectures(generations(name, problem(space, seed=seed, config=config, **budgets), Additive(space)))

    assert asked(3) == asked(3)
    assert asked(3)[0] != asked(4)[0]
    assert asked(3)[1] != asked(4)[1]


@pytest.mark.parametrize("done", range(SMALL.generations + 1))
@pytest.mark.parametrize("name", POPULATIONS)
def test_telling_the_log_to_a_new_instance_resumes_the_search(name, done):
    space = SPACES["one budget"]
    p = problem(space, seed=5, bitops="60%")
    whole = generations(name, p, Additive(space))
    resumed = generations(name, p, Additive(space), told=whole[:done])
    assert architectures(resumed) == architectures(whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_search_asks_for_the_same_architectures(name):
    """This is how stages resume: the search runs again, and the log provides the known evaluations."""
    space = SPACES["two budgets"]
    p = problem(space, bitops="40%", params="60%")
    log, first = {}, Additive(space)
    for generation in generations(name, p, first):
        log |= {s.architecture: s.score for s in generation}
    assert len(log) == len(first.asked)

    class Logged(Additive):
        def score(self, a):
            return log[a]  # a KeyError means that the first run did not ask for this architecture

    again = Logged(space)
    generations(name, p, again)
    assert again.asked == first.asked


@pytest.mark.parametrize("name", POPULATIONS)
def test_a_budget_equal_to_the_lowest_cost_finds_all_feasible_architectures(name):
    space = SPACES["one budget"]
    low, _ = cost_range(CostTable(space), "bitops")
    table = CostTable(space)
    keeping = {a for a in enumerate_space(space) if table.total(a) == low}
    found = generations(name, problem(space, bitops=low), Additive(space))
    assert sorted(a for generation in architectures(found) for a in generation) == sorted(keeping)


@pytest.mark.parametrize("share", [0.002, 0.01, 0.03])
@pytest.mark.parametrize("name", POPULATIONS)
def test_ends_on_tiny_feasible_sets_after_seeing_all_of_them(name, share):
    space = SPACES["one budget"]
    table = CostTable(space)
    everything = sorted(enumerate_space(space), key=table.total)
    limit = table.total(everything[max(1, round(share * len(everything)))])
    keeping = {a for a in everything if table.total(a) <= limit}
    config = SMALL.model_copy(update={"generations": 40})
    found = generations(name, problem(space, config=config, bitops=limit), Additive(space))
    assert {a for generation in architectures(found) for a in generation} == keeping
    assert len(found) < 40
    assert 2 <= len(keeping) < 200


@pytest.mark.parametrize("name", POPULATIONS)
def test_generations_end_the_search(name):
    space = SPACES["no budget"]
    for count in (1, 3):
        config = SMALL.model_copy(update={"generations": count})
        assert len(generations(name, problem(space, config=config), Additive(space))) == count


@pytest.mark.parametrize("name", NAMES)
def test_a_space_of_one_architecture(name):
    space = toy_space(axes={"bits": [[2, 2]]}, keep_float=["first", "last"])
    assert space.size == 1
    assert architectures(generations(name, problem(space), Additive(space))) == [[()]]


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_dual_objective_keeps_the_contract(name):
    space = SPACES["one budget"]
    p = problem(space, objective=Objective(least_score=0.0), bitops="60%")
    flat = [a for generation in architectures(generations(name, p, Additive(space))) for a in generation]
    assert len(set(flat)) == len(flat) == SMALL.population * SMALL.generations


def test_searchers_load_no_torch():
    code = (
        "import sys\n"
        "import spos_quant.searchers.base, spos_quant.searchers.evolution, spos_quant.searchers.random\n"
        "import spos_quant.searchers.knapsack\n"
        "import spos_quant.searchers.evaluation_log\n"
        "sys.exit('torch' in sys.modules or 'brevitas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
