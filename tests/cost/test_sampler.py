from __future__ import annotations

import numpy as np
import pytest
from cost_cases import PAIRS36, PRIMES, at, weird_spaces, within
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import binom
from toy import VARIANTS, assert_uniform, enumerate_space, layer, toy_space, toy_spec, with_costs

from spos_quant.cost import feasible, sampler
from spos_quant.cost.budget import Budget, cost_range
from spos_quant.cost.feasible import CountingProgram, argmax_cost, argmin_cost, price
from spos_quant.cost.sampler import FeasibleSampler, solve
from spos_quant.cost.table import CostTable
from spos_quant.errors import BudgetError
from spos_quant.space.resolve import resolve
from spos_quant.space.shapes import NetworkShapes


@settings(max_examples=120, deadline=None)
@given(
    weird_spaces(),
    st.floats(0, 1),
    st.sampled_from(["bitops", "weight_bytes", "macs", "bitops_total"]),
    st.sampled_from([3, 40, 16_384]),
    st.integers(0, 2**31),
)
def test_exactly_the_feasible_architectures_are_drawn(space, share, metric, units, seed):
    table, rng = CostTable(space), np.random.default_rng(seed)
    every = sorted(enumerate_space(space))
    assert space.size == table.tree.size == len(every)
    costs = table.totals(every, metric)
    assert cost_range(table, metric) == (costs.min(), costs.max())
    budget = at(table, share, metric)
    expected = within(space, table, [budget])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feasible, "MAX_UNITS", units)
        found = FeasibleSampler(table, [budget])
        draws = found.sample(rng, 200)
        assert len(draws) == 200
        assert set(draws) <= set(expected)
        if len(expected) <= 15:
            assert set(draws) == set(expected)
        a = expected[int(rng.integers(len(expected)))]
        fixed = {i: [c] for i, c in enumerate(a) if rng.random() < 0.7}
        kept = space.relevant

        def fits(b):
            return all(not kept(b)[i] or b[i] == c[0] for i, c in fixed.items())

        completed = found.complete(fixed, rng)
        assert completed in within(space, table, [budget], fits)
    exact = len(expected) / len(every)
    assert found.share >= exact * (1 - 1e-9)
    if units == 16_384 and found._drivers[0].exact:
        assert found.share == pytest.approx(exact)


WEIRD = with_costs(toy_space(), iter(np.random.default_rng(3).choice(PRIMES, 80).tolist()))
EVEN = toy_space()


@pytest.mark.parametrize("space", [WEIRD, EVEN], ids=["primes", "even"])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("units", [11, 16_384])
def test_draws_are_uniform(space, share, units, monkeypatch):
    monkeypatch.setattr(feasible, "MAX_UNITS", units)
    table = CostTable(space)
    expected = within(space, table, [at(table, share)])
    assert_uniform(
        FeasibleSampler(table, [at(table, share)]).sample(np.random.default_rng(0), 60 * len(expected)), expected
    )


@pytest.mark.parametrize("space", [WEIRD, EVEN], ids=["primes", "even"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.2, 0.4), (0.6, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("units", [30, 16_384])
def test_bands_are_uniform(space, low, high, units, monkeypatch):
    monkeypatch.setattr(feasible, "MAX_UNITS", units)
    table = CostTable(space)
    band = at(table, high, low=low)
    expected = within(space, table, [band])
    assert len(expected) > 3
    assert_uniform(FeasibleSampler(table, [band]).sample(np.random.default_rng(0), 60 * len(expected)), expected)


@pytest.mark.parametrize("space", [WEIRD, EVEN], ids=["primes", "even"])
@pytest.mark.parametrize(
    "shares",
    [
        {"bitops": 0.4, "weight_bytes": 0.5},
        {"bitops": 0.3, "weight_bytes": 0.6, "macs": 0.7},
        {"macs": 0.5, "params": 0.8, "bitops": 0.2},
    ],
)
def test_several_budgets_are_uniform(space, shares, monkeypatch):
    table = CostTable(space)
    budgets = [at(table, share, metric) for metric, share in shares.items()]
    expected = within(space, table, budgets)
    assert len(expected) > 3
    monkeypatch.setattr(sampler, "solve", None)  # rejection alone
    draws = FeasibleSampler(table, budgets).sample(np.random.default_rng(0), 60 * len(expected))
    assert_uniform(draws, expected)
    again = FeasibleSampler(table, budgets[::-1]).sample(np.random.default_rng(0), 60 * len(expected))
    assert set(again) == set(expected)


def test_two_bounds_on_one_metric_hold_together():
    table = CostTable(EVEN)
    budgets = [at(table, 0.5), at(table, 0.3), at(table, 0.9, low=0.1)]
    expected = within(EVEN, table, budgets)
    assert_uniform(FeasibleSampler(table, budgets).sample(np.random.default_rng(0), 60 * len(expected)), expected)
    row = solve(table, budgets, np.random.default_rng(0))
    assert tuple(row.tolist()) in expected


def test_completions_are_uniform_under_several_budgets():
    table = CostTable(WEIRD)
    budgets = [at(table, 0.5), at(table, 0.6, "weight_bytes")]
    allowed = {0: [0, 2, 2, 2], 2: [2, 1], 4: [0], 5: [1, 1, 1, 2]}  # duplicates count once

    def fits(a):
        kept = WEIRD.relevant(a)
        return all(not kept[i] or a[i] in some for i, some in allowed.items())

    expected = within(WEIRD, table, budgets, fits)
    assert len(expected) > 5
    found, rng = FeasibleSampler(table, budgets), np.random.default_rng(0)
    assert_uniform([found.complete(allowed, rng) for _ in range(25 * len(expected))], expected)


def test_without_budgets_the_whole_space_is_drawn():
    table, rng = CostTable(EVEN), np.random.default_rng(0)
    free = FeasibleSampler(table)
    assert free.share == 1.0
    assert_uniform(free.sample(rng, 60 * EVEN.size), enumerate_space(EVEN))
    allowed = {0: [2], 3: [0, 1]}
    expected = [a for a in enumerate_space(EVEN) if a[0] == 2 and a[3] in (0, 1)]
    assert_uniform([free.complete(allowed, rng) for _ in range(25 * len(expected))], expected)
    assert free.complete({}, rng) in enumerate_space(EVEN)


def test_infeasible_completions_are_none():
    table, rng = CostTable(EVEN), np.random.default_rng(0)
    most, least = (argcost(table, "bitops") for argcost in (argmax_cost, argmin_cost))
    found = FeasibleSampler(table, [at(table, 0.5)])
    assert found.complete({i: [c] for i, c in enumerate(most)}, rng) is None
    assert found.complete({i: [c] for i, c in enumerate(least)}, rng) == least
    assert found.complete({0: []}, rng) is None
    assert found.complete({0: [2], 1: [], 2: []}, rng) is not None  # axes of a skipped block are irrelevant
    # each bound alone is feasible, both together are not
    apart = FeasibleSampler(table, [at(table, 1.0, "macs", low=0.9), at(table, 0.5)])
    assert apart.complete({2: [2], 5: [2]}, rng) is None


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"full precision"}))
def test_budgets_at_the_ends_of_the_range(name):
    space = toy_space(**VARIANTS[name])
    table = CostTable(space)
    low, high = cost_range(table, "bitops")
    rng = np.random.default_rng(0)
    cheapest = FeasibleSampler(table, [Budget("bitops", low, "x")])
    assert set(table.totals(cheapest.sample(rng, 30)).tolist()) == {low}
    assert FeasibleSampler(table, [Budget("bitops", high, "x")]).share == pytest.approx(1)
    assert FeasibleSampler(table, [Budget("bitops", 10**30, "x")]).share == pytest.approx(1)
    with pytest.raises(
        BudgetError, match=rf"bitops budget x allows no architecture of 'toy'; feasible: {low:,} to {high:,}"
    ):
        FeasibleSampler(table, [Budget("bitops", low - 1, "x")])


def test_the_uniform_architecture_is_within_its_own_cost_and_drawn():
    for bits in ((2, 2), (2, 4), (4, 4)):
        table, a = CostTable(WEIRD), WEIRD.uniform(*bits)
        found = FeasibleSampler(table, [Budget("bitops", table.total(a), "own")])
        assert a in found.sample(np.random.default_rng(0), 30 * WEIRD.size)


def test_bands_without_an_architecture_are_an_error():
    table = CostTable(EVEN)
    costs = sorted(set(table.totals(sorted(enumerate_space(EVEN))).tolist()))
    gap = max(range(len(costs) - 1), key=lambda i: costs[i + 1] - costs[i])
    for band in (
        Budget("bitops", costs[gap + 1] - 1, "x", low=costs[gap] + 1),
        Budget("bitops", costs[-1] + 5, "x", low=costs[-1] + 1),
        Budget("bitops", costs[5], "x", low=costs[9]),
    ):
        with pytest.raises(BudgetError, match=r"no architecture of 'toy'"):
            FeasibleSampler(table, [band])
    only = FeasibleSampler(table, [Budget("bitops", costs[3], "x", low=costs[3])]).sample(np.random.default_rng(0), 20)
    assert set(table.totals(only).tolist()) == {costs[3]}


@pytest.mark.parametrize("space", [WEIRD, EVEN], ids=["primes", "even"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.7])
@pytest.mark.parametrize("low", [None, 0.0, 0.5])
def test_the_integer_program_agrees_with_enumeration(space, share, low):
    table = CostTable(space)
    budgets = [at(table, share), at(table, share, "weight_bytes"), at(table, 1.0, "macs", low=low)]
    expected = within(space, table, budgets)
    rows = [solve(table, budgets, np.random.default_rng(seed)) for seed in range(4)]
    assert all((row is not None) == bool(expected) for row in rows)
    assert {tuple(row.tolist()) for row in rows if row is not None} <= set(expected)
    if expected:
        allowed = {i: [c] for i, c in enumerate(expected[-1])}
        assert solve(table, budgets, np.random.default_rng(0), allowed).tolist() == list(expected[-1])


def test_differences_below_the_solvers_tolerance_are_distinguished():
    # one width costs a billionth more than the other
    macs = [1, 10**9, 10**9 + 1, 1, 1, 1]
    space = toy_space(blocks=1, axes={"op": ["conv"], "width": [0.5, 1.0], "bits": [[1, 1]]})
    table = CostTable(with_costs(space, iter([n for m in macs for n in (m, 1)])))
    assert table.totals([(0,), (1,)]).tolist() == [10**9 + 1, 10**9 + 2]
    for seed in range(10):
        assert solve(table, [Budget("bitops", 10**9 + 1, "x")], np.random.default_rng(seed)).tolist() == [0]
        assert solve(table, [Budget("bitops", 10**9, "x")], np.random.default_rng(seed)) is None


def test_the_integer_program_takes_over_if_draws_fail(monkeypatch):
    table = CostTable(EVEN)
    budgets = [at(table, 0.4), at(table, 0.4, "weight_bytes")]
    expected = within(EVEN, table, budgets)
    monkeypatch.setattr(sampler, "ROUNDS", 0)
    found = FeasibleSampler(table, budgets)
    draws = found.sample(np.random.default_rng(0), 30)
    assert len(draws) == 30
    assert set(draws) <= set(expected)
    assert len(set(draws)) > 3
    assert found.complete({i: [c] for i, c in enumerate(expected[0])}, np.random.default_rng(0)) == expected[0]


def test_errors_of_incompatible_budgets_name_their_ranges():
    table = CostTable(EVEN)
    with pytest.raises(BudgetError, match=r"keeps all budgets at once: bitops 0.0 \(alone feasible: .* to .*\); macs"):
        FeasibleSampler(table, [at(table, 0.0), at(table, 1.0, "macs", low=1.0)])


def test_draws_depend_on_the_generator_only():
    table = CostTable(WEIRD)
    found = FeasibleSampler(table, [at(table, 0.4)])
    one, same, other = (found.sample(np.random.default_rng(seed), 20) for seed in (7, 7, 8))
    assert one == same != other
    assert FeasibleSampler(table, [at(table, 0.4)]).sample(np.random.default_rng(7), 20) == one
    rng = np.random.default_rng(7)
    assert found.sample(rng, 20) == one != found.sample(rng, 20)


def test_a_space_without_axes_has_one_architecture():
    space = toy_space(axes={"op": ["conv"], "width": [1.0], "bits": [[8, 4]]})
    table = CostTable(space)
    cost = table.total(())
    found = FeasibleSampler(table, [Budget("bitops", cost, "x"), Budget("macs", 10**6, "y")])
    assert found.sample(np.random.default_rng(0), 3) == [(), (), ()]
    assert found.complete({}, np.random.default_rng(0)) == ()
    with pytest.raises(BudgetError):
        FeasibleSampler(table, [Budget("bitops", cost - 1, "x")])
    assert solve(table, [Budget("bitops", cost, "x")], np.random.default_rng(0)).tolist() == []
    assert solve(table, [Budget("bitops", cost - 1, "x")], np.random.default_rng(0)) is None


def test_units_are_exact_if_the_divisor_allows():
    table = CostTable(toy_space(scale=1000))
    root = price(table, "bitops")
    program = CountingProgram(root, root.high - root.low)
    assert program.exact
    assert program.unit % 1000 == 0
    every = sorted(enumerate_space(table.space))
    units = (table.totals(every) - root.low) // program.unit
    expected = np.bincount(units, minlength=program.limit + 1) / len(every)
    assert program.counts / program.counts.sum() == pytest.approx(expected, abs=1e-12)


def wide_space(layers, pairs=PAIRS36, numbers=None):
    """Many independent layers, each with all pairs of bits."""
    rng = np.random.default_rng(layers)
    made = tuple(layer(f"x{i}", None, None, int(m)) for i, m in enumerate(rng.integers(10**6, 10**8, layers)))
    return resolve(toy_spec(axes={"bits": pairs}, keep_float=[]), NetworkShapes((), made, (), made))


@pytest.mark.parametrize(("layers", "digits"), [(60, 90), (170, 260), (500, 770)])
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.01, 0.3])
def test_spaces_beyond_floating_point_are_sampled(layers, digits, share):
    space = wide_space(layers)
    assert space.size > 10**digits
    table = CostTable(space)
    budget = at(table, share)
    found = FeasibleSampler(table, [budget])
    draws = found.sample(np.random.default_rng(0), 20)
    costs = table.totals(draws)
    assert costs.max() <= budget.limit
    low, high = cost_range(table, "bitops")
    spent = (costs - low) / (high - low)
    if share == 0.0:
        assert set(draws) == {(0,) * layers}
    elif share == 0.01:
        assert spent.mean() > 0.9 * share  # nearly all of the space is more expensive, so draws are near the budget
    elif share == 0.3:
        assert 0.2 < spent.mean() < 0.29  # the space's own mean is (4 x 4 - 1) / 63
    assert share < 0.01 or len(set(draws)) == 20
    half = {i: [c] for i, c in enumerate(draws[0]) if i % 2}
    completed = found.complete(half, np.random.default_rng(1))
    assert all(completed[i] == c[0] for i, c in half.items())


@pytest.mark.parametrize("layers", [400, 2500])  # 2^-2500 is far below what a float can hold
@pytest.mark.parametrize("more", [0, 3, 150, 190])
def test_draws_of_equal_layers_follow_a_binomial_distribution(layers, more):
    # each layer costs one or two units: the feasible share is the lower tail of a binomial distribution
    made = tuple(layer(f"x{i}", None, None, 5) for i in range(layers))
    space = resolve(toy_spec(axes={"bits": [[1, 1], [2, 1]]}, keep_float=[]), NetworkShapes((), made, (), made))
    table = CostTable(space)
    found = FeasibleSampler(table, [Budget("bitops", 5 * (layers + more), "x")])
    twos = np.array(found.sample(np.random.default_rng(0), 500)).sum(axis=1)
    k = np.arange(more + 1)
    log_counts = binom.logpmf(k, layers, 0.5)
    total = logsumexp(log_counts)
    assert found.share == pytest.approx(np.exp(total), rel=1e-9)
    expected = np.exp(log_counts - total)
    mean = (k * expected).sum()
    spread = ((k - mean) ** 2 * expected).sum()
    assert twos.max() <= more
    assert abs(twos.mean() - mean) <= 5 * np.sqrt(spread / 500) + 1e-9


def test_samplers_complete_half_an_architecture_in_realistic_spaces():
    # 16 blocks of 3 widths x 6 pairs, as resnet34; 53 layers of 6 pairs; 16 blocks of operators, widths and pairs
    pairs = [[1, 2], [2, 2], [1, 4], [2, 4], [3, 4], [4, 4]]
    width = [0.5, 1.0, 1.5]
    blocks = toy_space(16, 9973, axes={"op": ["conv"], "width": width, "bits": pairs})
    layers = wide_space(53, pairs)
    joint = toy_space(16, 9973, axes={"op": ["conv", "wide", "skip"], "width": width, "bits": pairs})
    shared = toy_space(16, 9973, axes={"op": ["conv", "wide", "skip"], "width": width, "bits": pairs}, groups=[["b*"]])
    for space in (blocks, layers, joint, shared):
        table, rng = CostTable(space), np.random.default_rng(0)
        budget = at(table, 0.3)
        found = FeasibleSampler(table, [budget])
        (a,) = found.sample(rng, 1)
        half = {i: [c] for i, c in enumerate(a) if i % 2}
        completed = found.complete(half, np.random.default_rng(0))
        assert all(completed[i] == a[i] for i in half)
        assert table.total(completed) <= budget.limit
