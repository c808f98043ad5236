"""The strategy of the evolutionary search, and the golden log of both searchers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from search_cases import SMALL, Additive, generations, problem, scored
from toy import enumerate_space, toy_space

from spos_quant.backbones.build import load_space
from spos_quant.config import SearchConfig
from spos_quant.cost.table import CostTable
from spos_quant.searchers.evolution import Evolution
from spos_quant.space.uniform import uniform_architectures

GOLDEN = Path(__file__).parent.parent / "golden"
SPACE = toy_space(2)
LIMITS = (2_000, 4_000)


def feasible(space, limit: int):
    table = CostTable(space)
    return {a for a in enumerate_space(space) if table.total(a) <= limit}


@pytest.mark.parametrize("limit", LIMITS)
def test_crossover_gives_every_child_of_its_parents_and_no_other(limit):
    p = problem(SPACE, bitops=limit)
    evolution, rng = Evolution(p), np.random.default_rng(0)
    for parents in (p.sampler.sample(rng, 2) for _ in range(3)):
        relevant = [SPACE.relevant(a) for a in parents]

        def inherits(child, parents=parents, relevant=relevant):
            """Every relevant axis has the candidate of a parent, or was relevant in neither parent."""
            for axis, matters in enumerate(SPACE.relevant(child)):
                given = {a[axis] for a, kept in zip(parents, relevant, strict=True) if kept[axis]}
                if matters and given and child[axis] not in given:
                    return False
            return True

        expected = {a for a in feasible(SPACE, limit) if inherits(a)}
        children = {evolution._crossover(parents, rng) for _ in range(40 * len(expected))}
        assert children == expected
        assert set(parents) <= expected


def test_a_child_mixes_more_than_one_axis():
    space = toy_space(3, axes={"bits": [[2, 2], [2, 4], [4, 4]]}, bits_per="layer")
    evolution, rng = Evolution(problem(space)), np.random.default_rng(0)
    parents = [(0,) * len(space.axes), (1,) * len(space.axes)]
    children = np.array([evolution._crossover(parents, rng) for _ in range(400)])
    assert set(np.unique(children)) == {0, 1}
    mixed = children[(children.any(1)) & ~children.all(1)]
    assert len(mixed) > 150  # half of the pairs consist of the same parent twice
    np.testing.assert_allclose(mixed.mean(0), 0.5, atol=0.15)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_mutation_of_every_axis_gives_everything_and_one_of_none_the_parent(limit):
    rng = np.random.default_rng(1)
    parents = problem(SPACE, bitops=limit).sampler.sample(rng, 1)
    p = problem(SPACE, config=SMALL.model_copy(update={"mutation_prob": 0.0}), bitops=limit)
    assert {Evolution(p)._mutate(parents, rng) for _ in range(50)} == set(parents)
    p = problem(SPACE, config=SMALL.model_copy(update={"mutation_prob": 1.0}), bitops=limit)
    everything = feasible(SPACE, limit)
    found = {Evolution(p)._mutate(parents, rng) for _ in range(10 * len(everything))}
    assert found <= everything
    assert len(found) > 0.98 * len(everything)


@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_a_mutation_draws_axes_anew_with_the_configured_probability(probability):
    space = toy_space(4, axes={"bits": [[2, 2], [2, 4], [4, 4]]}, bits_per="layer")
    p = problem(space, config=SMALL.model_copy(update={"mutation_prob": probability}))
    evolution, rng = Evolution(p), np.random.default_rng(2)
    parent = tuple(i % 3 for i in range(len(space.axes)))
    n = 800
    changed = np.array([evolution._mutate([parent], rng) for _ in range(n)]) != np.array(parent)
    expected = probability * 2 / 3  # the old candidate may be drawn again
    spread = (expected * (1 - expected) / n) ** 0.5
    np.testing.assert_allclose(changed.mean(0), expected, atol=5 * spread)


def test_a_new_operator_samples_its_conditional_axes():
    """Mutation keeps the candidates of relevant axes and samples the others uniformly."""
    space = toy_space(1, axes={"op": ["skip", "conv"], "bits": [[2, 2], [2, 4], [4, 4]]})
    assert [axis.kind for axis in space.axes] == ["op", "bits"]
    p = problem(space, config=SMALL.model_copy(update={"mutation_prob": 0.5}))
    evolution, rng = Evolution(p), np.random.default_rng(3)
    children = [evolution._mutate([(0, 0)], rng) for _ in range(600)]
    counts = [children.count((1, bits)) for bits in range(3)]
    # drawn with 1/2; then conv with its three bits is three of four architectures
    np.testing.assert_allclose(counts, 600 * 0.5 / 4, atol=35)


def test_parents_are_the_best_so_far_of_all_generations():
    p = problem(SPACE, bitops="60%")
    function = Additive(SPACE)
    evolution = Evolution(p)
    every = []
    for _ in range(3):
        told = scored(p, function, evolution.ask())
        evolution.tell(told)
        every += told
    best = sorted(every, key=p.objective.rank)[: p.config.parents]
    assert evolution._parents() == [s.architecture for s in best]
    first = sorted(every[: p.config.population], key=p.objective.rank)[: p.config.parents]
    assert evolution._parents() != [s.architecture for s in first]


def test_evolution_beats_random_search():
    """On sums over axes, in a space of 56 million architectures, with equal numbers of evaluations."""
    space = load_space("digits-mixed")
    config = SearchConfig(population=16, generations=6, parents=4, crossover=8, mutation=6, mutation_prob=0.15)
    gains = []
    for seed in range(5):
        p = problem(space, seed=seed, config=config, bitops="10%")
        best = {
            name: max(s.score for g in generations(name, p, Additive(space, seed)) for s in g)
            for name in ("evolution", "random")
        }
        gains.append(best["evolution"] - best["random"])
    assert np.mean(gains) > 0.5
    assert sum(gain > 0 for gain in gains) >= 4


@pytest.mark.parametrize("name", ["evolution", "random"])
def test_golden_log(name):
    """The whole log of a search. UPDATE_GOLDEN=1 rewrites it, for intended changes."""
    space = load_space("resnet18-mixed")
    config = SearchConfig(population=8, generations=4, parents=3, crossover=3, mutation=3, mutation_prob=0.2)
    found = generations(name, problem(space, seed=7, config=config, bitops="w3a4"), Additive(space))
    log = [
        [{"architecture": space.encode(s.architecture), "score": s.score, "cost": s.cost} for s in generation]
        for generation in found
    ]
    path = GOLDEN / f"search-{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(log, indent=1) + "\n", "utf-8")
    assert log == json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("limit", ["w3a3", "w3a2", "100%"])
def test_uniform_bits_start_the_first_population_and_never_beat_the_result(limit):
    space = toy_space(3, axes={"weight_bits": [2, 3, 4], "act_bits": [2, 3, 4]}, bits_per="layer")
    config = SMALL.model_copy(update={"first": "uniform", "generations": 2})
    p = problem(space, config=config, bitops=limit)
    function = Additive(space)
    first, *rest = generations("evolution", p, function)
    baselines = list(uniform_architectures(space).values())
    assert len(baselines) == 9
    kept = [baseline for baseline, within in zip(baselines, p.sampler.keeps(baselines), strict=True) if within]
    initial = [s.architecture for s in first[: len(kept)]]
    assert set(initial) == set(kept)
    assert len({s.architecture for s in first}) == len(first) == SMALL.population
    assert max(s.score for g in (first, *rest) for s in g) >= max(map(function.score, kept))


def test_a_small_population_takes_the_most_expensive_uniform_bits():
    space = toy_space(2, axes={"weight_bits": [2, 3, 4], "act_bits": [2, 3, 4]}, bits_per="layer")
    config = SMALL.model_copy(update={"first": "uniform", "population": 3, "parents": 2, "crossover": 1, "mutation": 1})
    (first, *_) = generations("evolution", problem(space, config=config), Additive(space))
    assert [s.architecture for s in first] == [space.uniform(4, act) for act in (4, 3, 2)]


def test_a_space_without_bits_starts_at_random():
    space = toy_space(3, axes={"op": ["conv", "wide", "skip"], "width": [0.5, 1.0]})
    both = [
        generations("evolution", problem(space, config=SMALL.model_copy(update={"first": how})), Additive(space))
        for how in ("random", "uniform")
    ]
    assert both[0] == both[1]


def test_the_first_population_alternates_optima_and_uniform_bits():
    space = load_space("digits-mixed")
    config = SMALL.model_copy(update={"first": "knapsack", "population": 60})
    p, function = problem(space, config=config, bitops="50%"), Additive(space)
    _, first, *_ = generations("evolution", p, function)
    asked = [s.architecture for s in first]
    kept = [baseline for baseline in uniform_architectures(space).values() if p.sampler.keeps([baseline])[0]]
    assert len(kept) > 3
    assert asked[0] not in kept, "the optimum comes first"
    assert asked[1] == kept[-1]
    assert set(kept) <= set(asked[: 2 * len(kept)])
    assert max(s.score for s in first) >= max(map(function.score, kept))
