"""The knapsack searcher and its solutions as a first population: what they ask for, and that budgets hold."""

from __future__ import annotations

import numpy as np
import pytest
from search_cases import SMALL, Additive, architectures, generations, problem, scored
from toy import VARIANTS, enumerate_space, toy_space

from spos_quant.cost.sensitivity import Perturbations
from spos_quant.cost.table import CostTable
from spos_quant.errors import BudgetError
from spos_quant.searchers.base import Evaluation, Objective, drive, searchers
from spos_quant.searchers.pareto import front

SHARES = {"bitops": "35%"}


class Separable(Additive):
    """A loss that is a plain sum over the relevant axes; the score is its negative."""

    def __call__(self, asked):
        for evaluation in super().__call__(asked):
            yield Evaluation(evaluation.architecture, evaluation.score, -evaluation.score)


def best_of(space, function, p):
    """The best feasible architecture's score, by enumeration."""
    every = sorted(enumerate_space(space))
    keep = p.sampler.keeps(every)
    return max(function.score(a) for a, ok in zip(every, keep, strict=True) if ok)


def run(name, p, function):
    table = p.sampler.table
    return drive(searchers[name](p), function, lambda asked: table.totals(asked).tolist(), p.sampler.keeps)


def unconditional(seed):
    """Spaces in which every axis is always relevant, so that perturbations determine a separable loss."""
    return toy_space(3, axes={"op": ["conv"], "width": [0.5, 1.0], "bits": [[1, 2], [2, 2], [2, 4], [4, 4]]})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budgets", [{"bitops": "20%"}, {"bitops": "60%"}, {"bitops": "50%", "weight_bytes": "60%"}])
def test_finds_the_optimum_of_a_separable_loss(seed, budgets):
    space = unconditional(seed)
    p, function = problem(space, **budgets), Separable(space, seed)
    outcome = run("knapsack", p, function)
    best = outcome.best(p.objective)
    assert best.score == pytest.approx(best_of(space, function, p))
    assert p.sampler.keeps([best.architecture]).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_perturbations_come_first_and_infeasible_candidates_never_win(variant):
    space = toy_space(2, **VARIANTS[variant])
    metric = "macs" if space.spec.full_precision else "bitops"
    p = problem(space, **{metric: "60%"})
    perturbations = Perturbations(p.sampler.table)

    class Expensive(Separable):  # the score is the cost: infeasible candidates score best
        def score(self, a):
            return float(p.sampler.table.total(a, metric))

    function = Expensive(space)
    found = generations("knapsack", p, function)
    asked = architectures(found)
    assert asked[0] == perturbations.architectures
    assert p.sampler.keeps(asked[1]).all() if len(asked) > 1 else True
    outcome = run("knapsack", p, Expensive(space))
    best = outcome.best(p.objective)
    assert p.sampler.keeps([best.architecture]).all()
    assert max(s.score for s in outcome.results) > best.score
    flat = [a for generation in asked for a in generation]
    assert len(set(flat)) == len(flat) == len(outcome.results)


def test_several_solutions_are_evaluated_and_the_best_by_the_objective_wins():
    space = unconditional(0)
    config = SMALL.model_copy(update={"solutions": 7})
    p = problem(space, config=config, **SHARES)
    truth = Additive(space, 1)

    class Interacting(Separable):  # an interaction that no sum over axes represents
        def score(self, a):
            return truth.score(a) + (0.3 if a[1] == a[3] else 0.0)

    found = generations("knapsack", p, Interacting(space))
    assert len(found[1]) <= 7
    kept = [s for generation in found for s in generation if s.within]
    outcome = run("knapsack", p, Interacting(space))
    assert outcome.best(p.objective) == min(kept, key=p.objective.rank)
    assert len(kept) >= 7


def test_the_dual_takes_the_cheapest_that_reaches_the_least_score():
    space = unconditional(0)
    function = Separable(space, 2)
    every = sorted(enumerate_space(space))
    least = float(np.quantile([function.score(a) for a in every], 0.6))
    config = SMALL.model_copy(update={"population": 100})
    p = problem(space, config=config, objective=Objective(least_score=least))
    best = run("knapsack", p, function).best(p.objective)
    table = CostTable(space)
    assert best.score >= least
    assert best.cost <= 1.1 * min(table.total(a) for a in every if function.score(a) >= least)


def test_a_time_limit_before_any_feasible_evaluation_is_reported():
    space = toy_space(3)
    p = problem(space, bitops="5%")
    outcome = drive(
        searchers["knapsack"](p),
        Additive(space),
        lambda asked: p.sampler.table.totals(asked).tolist(),
        p.sampler.keeps,
        deadline=-1.0,
    )
    assert not outcome.complete
    with pytest.raises(BudgetError, match="before anything within the budget was evaluated"):
        outcome.best(p.objective)


def test_evolution_takes_solutions_into_its_first_population():
    space = unconditional(0)
    config = SMALL.model_copy(update={"first": "knapsack"})
    p, function = problem(space, config=config, **SHARES), Separable(space, 3)
    found = generations("evolution", p, function)
    asked = architectures(found)
    assert len(found) == SMALL.generations + 1
    assert asked[0] == Perturbations(p.sampler.table).architectures
    assert [len(g) for g in asked[1:]] == [SMALL.population] * SMALL.generations
    for generation in asked[1:]:
        assert p.sampler.keeps(generation).all()
    flat = [a for generation in asked for a in generation]
    assert len(set(flat)) == len(flat)
    assert max(s.score for s in [*found[0], *found[1]] if s.within) == pytest.approx(best_of(space, function, p))


@pytest.mark.parametrize("done", range(SMALL.generations + 2))
def test_evolution_from_solutions_resumes(done):
    space = unconditional(0)
    p = problem(space, config=SMALL.model_copy(update={"first": "knapsack"}), bitops="60%")
    whole = generations("evolution", p, Additive(space))
    resumed = generations("evolution", p, Additive(space), told=whole[:done])
    assert architectures(resumed) == architectures(whole)


def test_infeasible_results_rank_last_under_every_objective():
    space = toy_space(2)
    p = problem(space, bitops="30%")
    every = scored(p, Additive(space), sorted(enumerate_space(space)))
    for objective in (Objective(), Objective(least_score=0.0), Objective(least_score=100.0)):
        ranked = sorted(every, key=objective.rank)
        assert [s.within for s in ranked] == sorted((s.within for s in every), reverse=True)
    assert all(s in every for s in front(every))
