"""Evaluators on a real supernet, and `sq.search` from end to end."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spos_quant as sq
from spos_quant.backbones.build import space_of
from spos_quant.config import SearchConfig
from spos_quant.cost.budget import cost_range
from spos_quant.errors import BudgetError, ConfigError
from spos_quant.quant.integers import integers_available
from spos_quant.searchers import evaluators
from spos_quant.searchers.base import Evaluation, Objective, Scored
from spos_quant.searchers.evaluators import FunctionEvaluator, SupernetEvaluator
from spos_quant.searchers.pareto import front
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.evaluation import batch_norms, recalibrate, score

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = SearchConfig(population=4, generations=3, parents=3, crossover=2, mutation=1)


@pytest.fixture(scope="module")
def digits() -> Supernet:
    return sq.build(sq.load_space("digits-mixed"), seed=1)


def batches(n: int = 2, size: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 1, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator))
        for _ in range(n)
    ]


def agreement(module: nn.Module) -> float:
    """A score that depends on weights, bits, operators and BatchNorm statistics."""
    x, y = batches(1, 12, seed=5)[0]
    return -float(F.cross_entropy(module(x), y))


def test_supernet_evaluator_activates_recalibrates_and_scores(digits):
    asked = digits.space.sample_many(np.random.default_rng(0), 3)
    made = list(SupernetEvaluator(digits, batches(2), batches(3, seed=1))(asked))
    by_hand = []
    for a in asked:
        digits.activate(a)
        recalibrate(digits, batches(2))
        found = score(digits, batches(3, seed=1))
        by_hand.append(Evaluation(a, found.top1, found.loss))
    assert made == by_hand
    assert len({e.loss for e in made}) == 3


@pytest.mark.skipif(not integers_available(), reason="needs VNNI and oneDNN")
@pytest.mark.parametrize("norms", ["shared", "per-bits"])
def test_integer_arithmetic_changes_scores_by_rounding_only(norms):
    spec = sq.load_space("digits-mixed").spec.model_copy(update={"batch_norm": norms})
    supernet = sq.build(space_of(spec), seed=1)
    asked = supernet.space.sample_many(np.random.default_rng(0), 4)
    given = supernet, batches(2, 64), batches(3, 64, seed=1)
    exact, made = (list(SupernetEvaluator(*given, int8=int8)(asked)) for int8 in (False, True))
    assert [e.loss for e in made] != [e.loss for e in exact]
    for a, b in zip(made, exact, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=2e-2)
        assert a.score == pytest.approx(b.score, abs=0.05)
    assert list(SupernetEvaluator(*given)(asked)) == exact


@pytest.mark.parametrize("faster", [False, True])
def test_both_variants_are_timed_once_if_compiled_is_none(digits, monkeypatch, faster):
    variants, timed = [], []

    @contextmanager
    def kernels(wanted, device):
        variants.append(wanted)
        yield wanted

    def seconds(actions, device):
        timed.append(variants[-1])
        assert [action().shape for action in actions] == [(6, 10)] * len(actions)
        return 1.0 if variants[-1] == faster else 2.0

    asked = digits.space.sample_many(np.random.default_rng(4), 2)
    expected = list(SupernetEvaluator(digits, batches(2), batches(2, seed=1))(asked))
    monkeypatch.setattr(evaluators, "compiled_kernels", kernels)
    monkeypatch.setattr(evaluators, "median_seconds", seconds)
    assert list(SupernetEvaluator(digits, batches(2), batches(2, seed=1), compiled=None)(asked)) == expected
    assert sorted(timed) == [False, True]
    assert variants[-2:] == [faster, faster]


def test_evaluations_do_not_depend_on_what_was_evaluated_before(digits):
    asked = digits.space.sample_many(np.random.default_rng(1), 3)
    evaluator = SupernetEvaluator(digits, batches(2), batches(2, seed=1))
    assert list(evaluator(asked)) == list(evaluator(asked[::-1]))[::-1]


def test_evaluations_are_made_as_they_are_asked_for(digits):
    asked = digits.space.sample_many(np.random.default_rng(2), 3)
    made = SupernetEvaluator(digits, batches(1), batches(1))(asked)
    for a in asked:
        assert next(made).architecture == a
        assert digits.architecture == a


def test_function_sees_the_recalibrated_path_in_evaluation_mode_without_gradients(digits):
    asked = digits.space.sample_many(np.random.default_rng(3), 3)
    seen = []

    def function(module):
        assert module is digits
        seen.append((digits.architecture, any(m.training for m in module.modules()), torch.is_grad_enabled()))
        return agreement(module)

    digits.train()
    with_norms = [e.score for e in FunctionEvaluator(digits, function, batches(2))(asked)]
    assert seen == [(a, False, False) for a in asked]
    by_hand = []
    for a in asked:
        digits.activate(a)
        recalibrate(digits, batches(2))
        with torch.no_grad():
            by_hand.append(agreement(digits))
    assert with_norms == by_hand
    digits.train()
    without = [e.score for e in FunctionEvaluator(digits, function, None)(asked)]
    assert without[1:] != with_norms[1:]
    assert [s[1] for s in seen[3:]] == [False] * 3


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        None,
        "0.9",
        True,
        np.bool_(True),
        torch.tensor(True),
        [0.5],
        1j,
        torch.tensor(float("nan")),
        torch.tensor([0.1, 0.2]),
        np.array([0.3]),
    ],
    ids=repr,
)
def test_results_that_are_not_finite_numbers_are_refused(digits, value):
    with pytest.raises(ConfigError, match=r"evaluate\(\) returned .*; expected a finite number, higher is better"):
        list(FunctionEvaluator(digits, lambda module: value, None)([digits.architecture]))


@pytest.mark.parametrize(
    "value",
    [0.25, 1, -3, np.float32(0.5), np.float64(0.5), np.int64(7), torch.tensor(0.75), torch.tensor([2])],
    ids=repr,
)
def test_numbers_of_all_kinds_are_taken(digits, value):
    (made,) = FunctionEvaluator(digits, lambda module: value, None)([digits.architecture])
    assert made == Evaluation(digits.architecture, float(value), None)
    assert type(made.score) is float


def test_search_end_to_end(digits):
    scored = []

    def evaluate(module):
        scored.append(module.architecture)
        return agreement(module)

    digits.train()
    result = sq.search(digits, evaluate=evaluate, recalibrate=batches(), bitops_budget="2M", seed=3, config=FEW)
    architectures = [a for a, _, _ in result.evaluations]
    assert architectures == scored
    assert len(set(architectures)) == 12
    for a, cost, _ in result.evaluations:
        assert cost == digits.cost(a)["bitops"] <= 2_000_000
    best = max(result.evaluations, key=lambda entry: entry[2])
    assert result.best == best[0]
    assert sq.measure(digits.subnet(result.best), torch.zeros(1, 1, 8, 8))["bitops"] == best[1]
    found = [Scored(a, s, None, c) for a, c, s in result.evaluations]
    assert result.front == [(s.architecture, s.cost, s.score) for s in front(found)]
    assert result.front[-1] == best
    again = sq.search(digits, evaluate=agreement, recalibrate=batches(), bitops_budget="2M", seed=3, config=FEW)
    assert again == result
    other = sq.search(digits, evaluate=agreement, recalibrate=batches(), bitops_budget="2M", seed=4, config=FEW)
    assert other.evaluations[0] != result.evaluations[0]


def test_the_best_path_is_left_as_it_was_scored(digits):
    result = sq.search(digits, evaluate=agreement, recalibrate=batches(), bitops_budget="2M", config=FEW)
    assert digits.architecture == result.best
    expected = {a: s for a, _, s in result.evaluations}[result.best]
    with torch.no_grad():
        assert agreement(digits) == expected
        assert agreement(digits.subnet(result.best)) == expected


def test_random_search_and_several_budgets(digits):
    result = sq.search(
        digits,
        evaluate=agreement,
        recalibrate=None,
        searcher="random",
        weight_bytes_budget="9K",
        macs_budget="25%",
        config=FEW,
    )
    for a, cost, _ in result.evaluations:
        assert cost == digits.cost(a)["weight_bytes"] <= 9000
        assert digits.cost(a)["macs"] <= cost_range(digits.table, "macs")[1] / 4
    evolved = sq.search(
        digits, evaluate=agreement, recalibrate=None, weight_bytes_budget="9K", macs_budget="25%", config=FEW
    )
    assert evolved.evaluations != result.evaluations


def test_the_default_settings_are_those_of_the_space():
    spec = {"name": "recipe", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 10}
    spec |= {"axes": {"width": [0.5, 1.0], "bits": [[2, 2], [4, 4]]}}
    spec |= {"search": {"population": 3, "generations": 2, "crossover": 1, "mutation": 1}}
    supernet = sq.build(space_of(parse_spec(spec, "recipe")))
    costs = {a: c for a, c, _ in sq.search(supernet, evaluate=lambda m: 1.0, recalibrate=None).evaluations}
    assert len(costs) == 6
    assert all(supernet.cost(a)["bitops"] == c for a, c in costs.items())


def test_full_precision_is_searched_by_macs():
    spec = {"name": "blocks", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 10}
    supernet = sq.build(
        space_of(parse_spec(spec | {"axes": {"op": ["conv3x3", "skip"], "width": [0.5, 1.0]}}, "blocks"))
    )
    result = sq.search(supernet, evaluate=agreement, recalibrate=batches(), config=FEW)
    assert all(c == supernet.cost(a)["macs"] for a, c, _ in result.evaluations)
    with pytest.raises(BudgetError, match="full precision"):
        sq.search(supernet, evaluate=agreement, recalibrate=None, bitops_budget="1M")


def never(module: nn.Module) -> float:
    raise AssertionError("evaluated before the mistake was detected")


def test_batch_norm_without_recalibrate_is_explained(digits):
    with pytest.raises(ConfigError, match=r"has BatchNorm layers.*recalibrate=<batches.*recalibrate=None if you know"):
        sq.search(digits, evaluate=never, bitops_budget="2M")


def test_without_batch_norm_recalibrate_may_be_omitted(digits):
    plain = copy.deepcopy(digits)
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if batch_norms(child) == [child]:
                setattr(parent, name, nn.Identity())
    assert not batch_norms(plain)
    result = sq.search(plain, evaluate=agreement, bitops_budget="2M", config=FEW)
    assert len(result.evaluations) == 12


@pytest.mark.parametrize("used_up", [[], iter(())], ids=["empty", "iterator"])
def test_no_batches_to_recalibrate_from(digits, used_up):
    with pytest.raises(ConfigError, match="recalibration got no batches"):
        sq.search(digits, evaluate=agreement, recalibrate=used_up, config=FEW)


def test_an_iterator_is_not_mistaken_for_a_loader(digits):
    """An iterator would only serve the first architecture."""
    with pytest.raises(ConfigError, match="iterated over many times"):
        sq.search(digits, evaluate=agreement, recalibrate=iter(batches()), config=FEW)


def test_mistakes_in_the_call(digits):
    with pytest.raises(ConfigError, match="unknown searcher 'evolve'.*known: evolution"):
        sq.search(digits, evaluate=never, recalibrate=None, searcher="evolve")
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        sq.search(digits, evaluate=never, recalibrate=None, searcher="radnom")
    with pytest.raises(TypeError, match="unexpected keyword 'bitops_buget'; budgets end in _budget"):
        sq.search(digits, evaluate=never, recalibrate=None, bitops_buget="2M")
    with pytest.raises(ConfigError, match="unknown cost metric 'bitop'; did you mean 'bitops'"):
        sq.search(digits, evaluate=never, recalibrate=None, bitop_budget="2M")
    with pytest.raises(BudgetError, match="below the cheapest architecture"):
        sq.search(digits, evaluate=never, recalibrate=None, bitops_budget="1K")
    with pytest.raises(ConfigError, match="search.rank_by=loss: .* have it give minus the loss"):
        sq.search(digits, evaluate=never, recalibrate=None, config=FEW.model_copy(update={"rank_by": "loss"}))
    with pytest.raises(ConfigError, match="returned None"):
        sq.search(digits, evaluate=lambda module: None, recalibrate=None, bitops_budget="2M", config=FEW)


def test_progress_is_silent_unless_asked_for(digits, capsys):
    sq.search(digits, evaluate=agreement, recalibrate=None, config=FEW)
    assert capsys.readouterr() == ("", "")
    result = sq.search(digits, evaluate=agreement, recalibrate=None, config=FEW, show=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"search: {len(result.evaluations)} of 12 architectures" in err
    assert f"score {result.evaluations[-1][2]:.4f}" in err


def test_objective_of_a_search_is_the_highest_score(digits):
    """Ties go to the cheaper architecture."""
    result = sq.search(digits, evaluate=lambda module: 0.5, recalibrate=None, config=FEW)
    found = [Scored(a, s, None, c) for a, c, s in result.evaluations]
    assert result.best == min(found, key=Objective().rank).architecture
    assert digits.cost(result.best)["bitops"] == min(c for _, c, _ in result.evaluations)
    assert len(result.front) == 1
