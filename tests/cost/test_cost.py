from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import VARIANTS, assert_uniform, enumerate_space, toy_space

from spos_quant.backbones.build import load_space
from spos_quant.cost import feasible
from spos_quant.cost.budget import Budget, budgets_key, cost_range, parse_budget
from spos_quant.cost.feasible import extreme
from spos_quant.cost.metrics import metrics
from spos_quant.cost.rows import architecture_rows, config_rows, summary, total
from spos_quant.cost.sampler import FeasibleSampler, solve
from spos_quant.cost.table import CostTable
from spos_quant.errors import BudgetError, ConfigError

SPACES = {name: toy_space(**changes) for name, changes in VARIANTS.items()}
TABLES = {name: CostTable(space) for name, space in SPACES.items()}
METRICS = list(metrics)


def by_hand(space, a):
    """Every metric of an architecture, from the definition and the bit configuration alone."""
    config = space.bit_config(a)
    found = dict.fromkeys(METRICS, 0)
    for place, shape in space.active_layers(a):
        bits = config.layers[place.name]
        w, x = bits.weight_bits or 32, bits.act_bits or 32
        found["macs"] += shape.macs
        found["params"] += shape.weights + shape.biases
        found["weight_bytes"] += (shape.weights * w + 7) // 8
        if place.quantized:
            found["bitops"] += shape.macs * w * x
            found["bitops_total"] += shape.macs * w * x
        else:
            found["float_macs"] += shape.macs
            found["bitops_total"] += shape.macs * 1024
    return found


@pytest.mark.parametrize("name", SPACES)
def test_table_equals_rows_equals_hand_count(name):
    space, table = SPACES[name], TABLES[name]
    architectures = sorted(enumerate_space(space))[::7]
    for metric in METRICS:
        totals = table.totals(architectures, metric)
        for a, cost in zip(architectures, totals.tolist(), strict=True):
            assert (
                cost
                == table.total(a, metric)
                == total(architecture_rows(space, a), metric)
                == by_hand(space, a)[metric]
            )


@pytest.mark.parametrize("name", SPACES)
def test_bit_configuration_costs_what_its_architecture_costs(name):
    space = SPACES[name]
    metrics_of = ["macs", "params", "weight_bytes"] if space.spec.full_precision else METRICS
    for a in space.sample_many(np.random.default_rng(0), 20):
        ours = config_rows(space, space.bit_config(a))
        for metric in metrics_of:
            assert total(ours, metric) == total(architecture_rows(space, a), metric)


def test_uniform_is_analytic_where_the_space_does_not_offer_it():
    rows = config_rows(toy_space(), toy_space().uniform_config(3, 5))
    macs = 96 + 120 + 2 * (24 + 96 + 120)
    assert total(rows, "bitops") == macs * 15
    assert total(rows, "float_macs") == 140
    narrow = toy_space(axes={"op": ["skip"], "width": [0.5], "bits": [[2, 2], [4, 4]]})
    assert total(config_rows(narrow, narrow.uniform_config(3, 5)), "bitops") == macs * 15


def test_weight_bytes_round_up_per_layer():
    space = toy_space(axes={"op": ["conv"], "width": [1.0], "bits": [[3, 8]]}, blocks=1)
    weights = {"stem": 25, "b0.c1": 24, "b0.c2": 30, "head": 10}
    expected = 4 * 25 + -(-24 * 3 // 8) + -(-30 * 3 // 8) + 4 * 10
    assert CostTable(space).total((), "weight_bytes") == expected
    assert sum(weights.values()) == CostTable(space).total((), "params")


def test_full_precision_has_no_bitops():
    space = SPACES["full precision"]
    a = space.sample(np.random.default_rng(0))
    made = summary(architecture_rows(space, a), space="toy", architecture=space.encode(a), full_precision=True)
    assert made["bitops"] is None
    assert made["macs"] == by_hand(space, a)["macs"]
    assert made["formula"] == "bitops/1"


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("metric", ["bitops", "weight_bytes", "macs"])
def test_range_is_that_of_enumeration(name, metric):
    costs = TABLES[name].totals(sorted(enumerate_space(SPACES[name])), metric)
    assert cost_range(TABLES[name], metric) == (costs.min(), costs.max())
    for dearest, expected in ((True, costs.max()), (False, costs.min())):
        a = extreme(TABLES[name], metric, dearest=dearest)
        assert a == SPACES[name].canonical(a)
        assert TABLES[name].total(a, metric) == expected


def feasible_set(space, table, budgets):
    everything = sorted(enumerate_space(space))
    ok = np.ones(len(everything), dtype=bool)
    for b in budgets:
        costs = table.totals(everything, b.metric)
        ok &= (costs <= b.limit) & (costs >= (b.low or 0))
    return [a for a, keep in zip(everything, ok, strict=True) if keep]


@pytest.mark.parametrize("name", ["block", "two axes", "overrides", "all quantized"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("units", [16_384, 37])
def test_feasible_sampling_is_uniform_against_enumeration(name, share, units, monkeypatch):
    monkeypatch.setattr(feasible, "MAX_UNITS", units)  # 37 units force flooring and rejection
    space, table = SPACES[name], TABLES[name]
    low, high = cost_range(table, "bitops")
    budget = Budget("bitops", int(low + share * (high - low)), "x")
    expected = feasible_set(space, table, [budget])
    draws = FeasibleSampler(table, [budget]).sample(np.random.default_rng(1), 50 * len(expected))
    assert_uniform(draws, expected)


def test_bands_are_uniform_too():
    space, table = SPACES["block"], TABLES["block"]
    _, high = cost_range(table, "bitops")
    band = Budget("bitops", int(0.5 * high), "x", low=int(0.3 * high))
    expected = feasible_set(space, table, [band])
    assert 3 < len(expected) < space.size / 2
    assert_uniform(FeasibleSampler(table, [band]).sample(np.random.default_rng(1), 60 * len(expected)), expected)


def test_several_budgets_hold_together():
    space, table = SPACES["two axes per layer"], TABLES["two axes per layer"]
    budgets = [
        Budget(m, int(0.7 * low + 0.3 * high), "x")
        for m in ("bitops", "weight_bytes", "macs")
        for low, high in [cost_range(table, m)]
    ]
    expected = feasible_set(space, table, budgets)
    assert expected
    assert set(FeasibleSampler(table, budgets).sample(np.random.default_rng(0), 500)) <= set(expected)


def test_budgets_that_exclude_each_other_are_an_error():
    table = TABLES["block"]
    # the fewest BitOps need the cheapest bits and skips; at least so many MACs exclude that
    budgets = [
        Budget("bitops", cost_range(table, "bitops")[0], "a"),
        Budget("macs", cost_range(table, "macs")[1], "b", low=cost_range(table, "macs")[1]),
    ]
    with pytest.raises(BudgetError, match="keeps all budgets at once"):
        FeasibleSampler(table, budgets)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    name=st.sampled_from(sorted(set(SPACES) - {"full precision"})),
    scale=st.sampled_from([1, 7, 997]),
    share=st.floats(0, 1),
    metric=st.sampled_from(["bitops", "weight_bytes", "macs"]),
)
def test_nothing_sampled_exceeds_its_budget(seed, name, scale, share, metric):
    space = toy_space(scale=scale, **VARIANTS[name])
    table = CostTable(space)
    low, high = cost_range(table, metric)
    budget = Budget(metric, int(low + share * (high - low)), "x")
    rng = np.random.default_rng(seed)
    draws = FeasibleSampler(table, [budget]).sample(rng, 20)
    assert len(draws) == 20
    assert max(table.totals(draws, metric)) <= budget.limit
    assert all(a == space.canonical(a) for a in draws)


@pytest.mark.parametrize("bits", [(2, 2), (2, 4), (4, 4)])
def test_a_uniform_architecture_keeps_its_own_budget(bits):
    space, table = SPACES["block"], TABLES["block"]
    a = space.uniform(*bits)
    budget = parse_budget(f"w{bits[0]}a{bits[1]}", "bitops", table)
    assert budget.limit == table.total(a)
    fixed = {i: [c] for i, c in enumerate(a)}
    assert FeasibleSampler(table, [budget]).complete(fixed, np.random.default_rng(0)) == a


def test_resnet18_draws_reach_the_uniform_architecture_of_its_budget():
    table = CostTable(load_space("resnet18-mixed"))
    sampler = FeasibleSampler(table, [parse_budget("w2a2", "bitops", table)])
    draws = sampler.sample(np.random.default_rng(0), 3000)
    costs = table.totals(draws)
    assert costs.max() == sampler.budgets[0].limit == 1056 * 6_422_528  # touches the budget, which is 6.316 Gi
    a = table.space.uniform(2, 2)
    assert sampler.complete({i: [c] for i, c in enumerate(a)}, np.random.default_rng(0)) == a


def test_the_cheapest_budget_leaves_the_cheapest_architectures():
    space, table = SPACES["layer"], TABLES["layer"]
    low, _ = cost_range(table, "bitops")
    expected = feasible_set(space, table, [Budget("bitops", low, "x")])
    draws = FeasibleSampler(table, [Budget("bitops", low, "x")]).sample(np.random.default_rng(0), 50)
    assert set(draws) == set(expected)


def test_completion_is_uniform_over_what_is_allowed():
    space, table = SPACES["block"], TABLES["block"]
    low, high = cost_range(table, "bitops")
    budget = Budget("bitops", (low + high) // 2, "x")
    sampler = FeasibleSampler(table, [budget])
    allowed = {0: [0, 2], 1: [1], 5: [0, 2]}

    def fits(a):
        kept = space.relevant(a)
        return all(not kept[axis] or a[axis] in options for axis, options in allowed.items())

    expected = [a for a in feasible_set(space, table, [budget]) if fits(a)]
    rng = np.random.default_rng(0)
    assert_uniform([sampler.complete(allowed, rng) for _ in range(40 * len(expected))], expected)


def test_completion_says_when_there_is_none():
    table = TABLES["block"]
    low, _ = cost_range(table, "bitops")
    dear = {i: [c] for i, c in enumerate(extreme(table, "bitops", dearest=True))}
    assert FeasibleSampler(table, [Budget("bitops", low, "x")]).complete(dear, np.random.default_rng(0)) is None


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.6])
def test_integer_program_agrees_with_enumeration(share):
    space, table = SPACES["layer"], TABLES["layer"]
    budgets = [
        Budget(m, int(low + share * (high - low)), "x")
        for m in ("bitops", "weight_bytes")
        for low, high in [cost_range(table, m)]
    ]
    found = solve(table, budgets, np.random.default_rng(0))
    expected = feasible_set(space, table, budgets)
    assert (found is not None) == bool(expected)
    if found is not None:
        assert tuple(found.tolist()) in expected


@pytest.mark.parametrize("blocks", [40, 110])
def test_spaces_beyond_float_range_are_sampled_exactly(blocks):
    bits = [[w, a] for w in (1, 2, 3, 4, 6, 8) for a in (1, 2, 3, 4, 6, 8)]
    space = toy_space(blocks=blocks, bits_per="layer", axes={"op": ["conv", "wide"], "width": [0.5, 1.0], "bits": bits})
    assert (space.size == len(str(space.size)) and False) or space.size > 10 ** (2 * blocks)
    table = CostTable(space)
    low, high = cost_range(table, "bitops")
    budget = Budget("bitops", low + (high - low) // 50, "x")
    sampler = FeasibleSampler(table, [budget])
    draws = sampler.sample(np.random.default_rng(0), 5)
    assert max(table.totals(draws)) <= budget.limit
    assert len(set(draws)) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4000", 4000), ("4K", 4000), ("4Ki", 4096), ("1.5K", 1500), ("4,000", 4000), (4000, 4000), ("0.004M", 4000)],
)
def test_budget_grammar(text, expected):
    assert parse_budget(text, "macs", TABLES["block"]).limit == expected


def test_relative_budgets():
    table = TABLES["block"]
    assert parse_budget("50%", "bitops", table).limit == cost_range(table, "bitops")[1] // 2
    assert parse_budget("w3a4", "bitops", table).limit == 12 * (96 + 120 + 2 * (24 + 96 + 120))


@pytest.mark.parametrize(
    ("text", "metric", "message"),
    [
        ("1", "bitops", r"below the cheapest architecture of 'toy' .*; feasible: "),
        ("0", "bitops", "expected a number above 0"),
        ("-4M", "bitops", "is no number above 0"),
        ("", "bitops", "is no number above 0"),
        ("12Q", "bitops", "unknown suffix 'Q'"),
        ("4m", "bitops", "unknown suffix 'm'"),
        ("150%", "bitops", "at most 100 %"),
        ("w9a9", "bitops", "1 to 8 bits"),
        ("w4a4", "macs", "say nothing about macs"),
        ("nan", "bitops", "is no number"),
        ("1e9999", "bitops", "unknown suffix|is no number"),
    ],
)
def test_wrong_budgets_are_explained(text, metric, message):
    with pytest.raises(BudgetError, match=message):
        parse_budget(text, metric, TABLES["block"])


def test_budgets_of_unknown_metrics_and_full_precision():
    with pytest.raises(ConfigError, match="unknown cost metric 'bitop'; did you mean 'bitops'"):
        parse_budget("4M", "bitop", TABLES["block"])
    with pytest.raises(BudgetError, match=r"full precision.*--macs-budget"):
        parse_budget("4M", "bitops", TABLES["full precision"])


def test_keys_name_results():
    assert (
        budgets_key([Budget("weight_bytes", 1, "40K"), Budget("bitops", 1, "35%")]) == "bitops-35pct+weight_bytes-40K"
    )
