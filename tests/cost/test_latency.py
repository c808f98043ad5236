"""Latency as a cost metric: the table, its file, and sums of its rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spos_quant.backbones.build import builtin_spaces, load_space
from spos_quant.cost.budget import Budget, cost_range, parse_budget
from spos_quant.cost.latency import COLUMNS, LatencyTable, LayerCall, calls, latency_csv, parse_latency_csv
from spos_quant.cost.latency_error import accuracy_note, sum_error, with_rest
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable
from spos_quant.errors import BudgetError, ConfigError, SpaceError
from spos_quant.space.shapes import Geometry

SPACE = load_space("resnet20-mixed")
_CALLS = calls(SPACE)
ROWS = dict(zip(_CALLS, np.random.default_rng(3).integers(1_000, 900_000, len(_CALLS)).tolist(), strict=True))
TABLE = CostTable(SPACE, LatencyTable(ROWS, rest=12_345))


def by_hand(space, architecture):
    """Nanoseconds, summed over the active layers of the architecture."""
    found = 0
    for layer, shape in space.active_layers(architecture):
        bits = (layer.weight.value(architecture), layer.act.value(architecture)) if layer.quantized else (None, None)
        found += ROWS[LayerCall(shape.geometry, *bits)] * shape.runs
    return found


@pytest.mark.parametrize("name", builtin_spaces())
def test_geometries_agree_with_multiply_adds(name):
    """Independent of the dry run: output positions from strides and padding, times the weights."""
    for layer in load_space(name).layers:
        for shape in layer.shapes:
            g = shape.geometry
            weights = int(np.prod(g.weight))
            assert (weights, g.weight[0], g.kind) == (shape.weights, shape.out_channels, layer.kind)
            if g.kind == "Linear":
                assert shape.macs == shape.runs * weights * int(np.prod(g.input[:-1]))
                continue
            n = len(g.stride)
            out = [
                (g.input[1 + i] + g.padding[i] + g.padding[n + i] - g.dilation[i] * (g.weight[2 + i] - 1) - 1)
                // g.stride[i]
                + 1
                for i in range(n)
            ]
            assert g.input[0] == g.weight[1] * g.groups
            assert shape.macs == shape.runs * weights * int(np.prod(out))


def test_a_latency_is_the_sum_of_rows_and_the_rest():
    rng = np.random.default_rng(0)
    several = SPACE.sample_many(rng, 50)
    assert TABLE.totals(several, "latency").tolist() == [12_345 + by_hand(SPACE, a) for a in several]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**31))
def test_sampled_architectures_are_within_their_budget(share, seed):
    low, high = cost_range(TABLE, "latency")
    limit = int(low + share * (high - low))
    for architecture in FeasibleSampler(TABLE, [Budget("latency", limit, "t")]).sample(np.random.default_rng(seed), 20):
        assert 12_345 + by_hand(SPACE, architecture) <= limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("3ms", 3_000_000),
        ("1,500us", 1_500_000),
        ("0.002s", 2_000_000),
        ("2000000ns", 2_000_000),
        (" 2.5 ms ", 2_500_000),
    ],
)
def test_times_as_budgets(text, limit):
    slow = CostTable(SPACE, LatencyTable(dict.fromkeys(ROWS, 10_000)))
    assert parse_budget(text, "latency", slow).limit == limit


def test_uniform_bits_and_shares_as_budgets():
    assert parse_budget("w4a4", "latency", TABLE).limit == 12_345 + by_hand(SPACE, SPACE.uniform(4, 4))
    assert parse_budget("100%", "latency", TABLE).limit == cost_range(TABLE, "latency")[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2", "unknown suffix ''; expected ns, us, ms, s or %"),
        ("2M", "unknown suffix 'M'; expected ns, us"),
        ("fast", "expected such as 2ms, 300us"),
        (
            "1us",
            r"latency budget 1us \(1 us\) is below the cheapest architecture .* feasible: [0-9.]+ ms to [0-9.]+ ms",
        ),
    ],
)
def test_invalid_latency_budgets_are_explained(text, message):
    with pytest.raises(BudgetError, match=message):
        parse_budget(text, "latency", TABLE)


def test_without_a_table_nothing_can_be_bounded():
    bare = CostTable(SPACE)
    assert "latency" not in bare.budget_metrics
    assert "latency" in TABLE.budget_metrics
    with pytest.raises(ConfigError, match="no latencies of 'resnet20-mixed' are known; measure them with: spos-quant"):
        parse_budget("2ms", "latency", bare)


def test_a_table_that_lacks_a_layer_names_it():
    some = dict(list(ROWS.items())[:-1])
    lacking = LatencyTable(some)
    assert "latency" not in CostTable(SPACE, lacking).budget_metrics
    with pytest.raises(ConfigError, match="board.csv lacks 1 of the 170 .* Linear 64 with weight 10x64 at w32a32"):
        lacking.check(SPACE, "board.csv")
    with pytest.raises(ConfigError, match="has no row for Linear 64"):
        CostTable(SPACE, lacking).tables("latency")


def test_the_error_is_leave_one_out():
    """Three networks take 100, 200 and 600 us beyond their layers; the rests fitted to the others: 400, 350, 150."""
    several = SPACE.sample_many(np.random.default_rng(1), 3)
    over = (100_000, 200_000, 600_000)
    whole = [by_hand(SPACE, a) + extra for a, extra in zip(several, over, strict=True)]
    table = LatencyTable(ROWS, networks={SPACE.encode(a): ns for a, ns in zip(several, whole, strict=True)})
    off = [abs(rest - extra) / ns for rest, extra, ns in zip((400_000, 350_000, 150_000), over, whole, strict=True)]
    found = sum_error(table, SPACE)
    assert found == {"networks": 3, "mean": pytest.approx(np.mean(off)), "largest": pytest.approx(max(off))}
    assert with_rest(table, SPACE).rest == 200_000
    assert "of 3 whole networks it is off by" in accuracy_note(table, SPACE)
    assert "not known" in accuracy_note(LatencyTable(ROWS), SPACE)
    with pytest.raises(ConfigError, match="a network of another space"):
        sum_error(LatencyTable(ROWS, networks={"0,1": 5}), SPACE)


sizes = st.lists(st.integers(0, 9999), min_size=1, max_size=4).map(tuple)
geometries = st.builds(
    Geometry, st.sampled_from(["Conv2d", "Linear", "Conv1d"]), sizes, sizes, sizes, sizes, sizes, st.integers(1, 999)
)
bits = st.none() | st.integers(1, 8)


@settings(deadline=None)
@given(
    st.dictionaries(st.builds(LayerCall, geometries, bits, bits), st.integers(0, 10**11), max_size=5),
    st.integers(0, 10**9),
    st.dictionaries(st.from_regex(r"[0-9](,[0-9]){0,5}", fullmatch=True), st.integers(0, 10**9), max_size=3),
)
def test_csv_round_trip(layers, rest, networks):
    table = LatencyTable(layers, rest, networks, "a board, 2 threads")
    assert parse_latency_csv(latency_csv(table), "x.csv") == table


HEAD = ",".join(COLUMNS)
GOOD = "layer,Linear,64,10x64,,,,1,2,4,,3.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.csv: column 'what' is missing"),
        ("what,kind\n", "x.csv: column 'input' is missing"),
        (f"{HEAD}\n{GOOD[:-3]}\n", "x.csv, line 2: microseconds is ''; expected a number"),
        (f"# a\n\n{HEAD}\n{GOOD}\n{GOOD[:-3]}-1\n", "x.csv, line 5: microseconds is '-1'"),
        (f"{HEAD}\n{GOOD[:-3]}nan\n", "microseconds is 'nan'"),
        (f"{HEAD}\n{GOOD.replace('10x64', '10*64')}\n", "line 2: weight is '10[*]64'; expected sizes such as 16x32x32"),
        (f"{HEAD}\n{GOOD.replace('2,4', 'two,4')}\n", "weight_bits is 'two'; expected a whole number"),
        (f"{HEAD}\n{GOOD.replace('layer', 'lair')}\n", "what is 'lair'; expected layer, rest or network"),
        (f"{HEAD}\nrest,,,,,,,,,,,1\nrest,,,,,,,,,,,2\n", "2 rows of rest"),
        (f"{HEAD}\nlayer,Linear\n", "line 2: microseconds is ''"),
    ],
)
def test_invalid_tables_are_explained(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_latency_csv(text, "x.csv")


def test_a_layer_that_runs_on_different_shapes_has_no_latency():
    from dataclasses import replace

    first, *others = SPACE.layers
    blurred = replace(first, shapes=tuple(replace(shape, geometry=None, runs=2) for shape in first.shapes))
    with pytest.raises(SpaceError, match="'conv1' runs several times on inputs of different shapes"):
        calls(replace(SPACE, layers=(blurred, *others)))
