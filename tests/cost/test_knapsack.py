"""The exact minimum of an additive loss, against enumeration and against scipy's integer programs."""

from __future__ import annotations

import numpy as np
import pytest
from cost_cases import PAIRS36, at, weird_spaces, within
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from toy import enumerate_space, toy_space

from spos_quant.cost import feasible
from spos_quant.cost.budget import Budget
from spos_quant.cost.knapsack import _by_program, loss_of, optima
from spos_quant.cost.table import CostTable


def losses_of(space, rng, *, whole=False):
    """Random losses per axis and candidate, some negative; with `whole`, many ties."""
    if whole:
        return [rng.integers(-2, 3, len(axis.candidates)).astype(float) for axis in space.axes]
    return [rng.normal(size=len(axis.candidates)) * 10.0 ** rng.integers(-3, 2) for axis in space.axes]


def ranked(space, table, losses, budgets):
    """`(loss, architecture)` of all architectures within the budgets, by enumeration, least loss first."""
    return sorted((loss_of(losses, a, space.relevant(a)), a) for a in within(space, table, budgets))


@settings(max_examples=60, deadline=None)
@given(
    weird_spaces(),
    st.floats(0, 1),
    st.none() | st.floats(0, 1),
    st.sampled_from(["bitops", "weight_bytes", "macs"]),
    st.sampled_from([0, 3, 16_384]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_one_budget_or_band_equals_enumeration(space, share, low, metric, units, whole, seed):
    table = CostTable(space)
    losses = losses_of(space, np.random.default_rng(seed), whole=whole)
    budget = at(table, share, metric, low)
    expected = ranked(space, table, losses, [budget])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feasible, "MAX_UNITS", units)  # 0 leaves everything to the integer program
        found = optima(table, losses, [budget], count=3)
    assert len(set(found)) == len(found) == min(3, len(expected))
    assert set(found) <= {a for _, a in expected}
    got = [loss_of(losses, a, space.relevant(a)) for a in found]
    assert got == pytest.approx([loss for loss, _ in expected[:3]], abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(weird_spaces(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31))
def test_two_budgets_equal_enumeration(space, first, second, seed):
    table = CostTable(space)
    losses = losses_of(space, np.random.default_rng(seed))
    budgets = [at(table, first), at(table, second, "weight_bytes")]
    expected = ranked(space, table, losses, budgets)
    found = optima(table, losses, budgets, count=2)
    assert [loss_of(losses, a, space.relevant(a)) for a in found] == pytest.approx(
        [loss for loss, _ in expected[:2]], abs=1e-7
    )
    assert set(found) <= {a for _, a in expected}


@settings(max_examples=20, deadline=None)
@given(weird_spaces(), st.floats(0, 1), st.integers(0, 2**31))
def test_restricted_candidates(space, share, seed):
    table, rng = CostTable(space), np.random.default_rng(seed)
    losses, budget = losses_of(space, rng), at(table, share)
    allowed = {i: [int(rng.integers(len(axis.candidates)))] for i, axis in enumerate(space.axes) if rng.random() < 0.4}
    expected = [
        (loss, a)
        for loss, a in ranked(space, table, losses, [budget])
        if all(a[i] in some for i, some in allowed.items() if space.relevant(a)[i])
    ]
    found = optima(table, losses, [budget], allowed=allowed)
    assert [loss_of(losses, a, space.relevant(a)) for a in found] == pytest.approx([loss for loss, _ in expected[:1]])


def per_layer(layers, weight_bits=(2, 4, 8), act_bits=(4, 8)):
    """A space with separate axes for the weights and activations of every layer."""
    axes = {"op": ["conv"], "weight_bits": list(weight_bits), "act_bits": list(act_bits)}
    return toy_space(layers, bits_per="layer", keep_float=[], axes=axes)


@pytest.mark.parametrize("seed", range(5))
def test_many_layers_equal_an_integer_program_written_by_hand(seed):
    """Multiple-choice knapsack with one variable per axis and candidate, independent of the decision tree."""
    space, rng = per_layer(20), np.random.default_rng(seed)
    table = CostTable(space)
    losses = losses_of(space, rng)
    budgets = [at(table, 0.4, "weight_bytes")]
    columns = [(i, k) for i, axis in enumerate(space.axes) for k in range(len(axis.candidates))]
    choose = np.array([[float(i == axis) for i, _ in columns] for axis in range(len(space.axes))])
    cheapest = [0] * len(space.axes)

    def cost(i, k):
        changed = [*cheapest[:i], k, *cheapest[i + 1 :]]
        return table.total(changed, "weight_bytes") - table.total(cheapest, "weight_bytes")

    costs = np.array([[cost(i, k) for i, k in columns]])
    spare = budgets[0].limit - table.total(cheapest, "weight_bytes")
    done = milp(
        [losses[i][k] for i, k in columns],
        constraints=[LinearConstraint(choose, 1, 1), LinearConstraint(costs, -np.inf, spare)],
        integrality=np.ones(len(columns)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    (found,) = optima(table, losses, budgets)
    assert loss_of(losses, found, space.relevant(found)) == pytest.approx(done.fun, rel=1e-6)
    assert table.total(found, "weight_bytes") <= budgets[0].limit
    (other,) = _by_program(table, losses, budgets, None, [], 1)
    assert loss_of(losses, other, space.relevant(other)) == pytest.approx(done.fun, rel=1e-6)


def test_axes_whose_bitops_multiply_are_decided_together():
    space = per_layer(2)
    table = CostTable(space)
    losses = losses_of(space, np.random.default_rng(1))
    for share in (0.1, 0.3, 0.8):
        expected = ranked(space, table, losses, [at(table, share)])
        assert optima(table, losses, [at(table, share)]) == [expected[0][1]]


def test_floored_units_would_lose_an_optimum_that_touches_the_budget(monkeypatch):
    space = toy_space(2, bits_per="layer", axes={"op": ["conv"], "bits": PAIRS36[:8]})
    table = CostTable(space)
    losses = losses_of(space, np.random.default_rng(3))
    every = ranked(space, table, losses, [])
    target = every[len(every) // 3][1]
    budget = Budget("bitops", table.total(target), "touches")
    expected = ranked(space, table, losses, [budget])[0]
    monkeypatch.setattr(feasible, "MAX_UNITS", 5)
    (found,) = optima(table, losses, [budget])
    assert loss_of(losses, found, space.relevant(found)) == pytest.approx(expected[0])


def test_of_equal_losses_the_cheapest_is_found():
    space = toy_space(2)
    table = CostTable(space)
    nothing = [np.zeros(len(axis.candidates)) for axis in space.axes]
    (found,) = optima(table, nothing, [at(table, 0.9)])
    assert table.total(found) == min(table.totals(sorted(enumerate_space(space))))


def test_no_budget_and_a_space_without_axes():
    space = toy_space(2)
    table = CostTable(space)
    losses = losses_of(space, np.random.default_rng(0))
    assert optima(table, losses) == [ranked(space, table, losses, [])[0][1]]
    single = toy_space(axes={"bits": [[2, 2]]})
    assert optima(CostTable(single), [], count=4) == [()]


def test_infeasible_budgets_give_no_architectures():
    space = toy_space(2)
    table = CostTable(space)
    losses = losses_of(space, np.random.default_rng(0))
    assert optima(table, losses, [Budget("bitops", 1, "1")]) == []
    assert optima(table, losses, [at(table, 0.0), at(table, 1.0, "macs", low=1.0)]) == []
