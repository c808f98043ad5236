from __future__ import annotations

import pytest
from toy import VARIANTS, layer, toy_space, toy_spec

from spos_quant.cost.budget import (
    Budget,
    budget_warnings,
    budgets_json,
    budgets_key,
    cost_range,
    keeps,
    parse_budget,
)
from spos_quant.cost.table import CostTable
from spos_quant.cost.units import human
from spos_quant.errors import BudgetError
from spos_quant.space.resolve import resolve
from spos_quant.space.shapes import NetworkShapes

TABLE = CostTable(toy_space(scale=1000))
LOW, HIGH = cost_range(TABLE, "bitops")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("2.5M", 2_500_000),
        ("2.5Mi", 2_621_440),
        ("6.3G", 6_300_000_000),
        ("6.3Gi", 6_764_573_491),  # 6764573491.2, never rounded up
        ("0.002G", 2_000_000),
        ("1T", 10**12),
        ("1Ti", 2**40),
        ("1e6", 1_000_000),
        ("1.5e6", 1_500_000),
        ("1E+6", 1_000_000),
        ("2.5e3K", 2_500_000),
        ("1,000,000", 1_000_000),
        ("1_000_000", 1_000_000),
        ("  4 M ", 4_000_000),
        (".5M", 500_000),
        ("2.3M", 2_300_000),  # 2.3 x 10^6 is below that in floating point
        (500_000, 500_000),
        (2.5e6, 2_500_000),
        (1e16, 10**16),
        ("999999.999", 999_999),
        ("9e99", 2**62),
        ("100%", HIGH),
        ("35%", HIGH * 35 // 100),
        ("12.5 %", HIGH // 8),
        ("w4a4", 16 * 696_000),
        ("W2A4", 8 * 696_000),
        ("w3a5", 15 * 696_000),  # no candidate of the space
        ("float", 1024 * 696_000),
    ],
)
def test_budgets_are_parsed(text, limit):
    budget = parse_budget(text, "bitops", TABLE)
    assert (budget.limit, budget.metric, budget.text) == (limit, "bitops", str(text).strip())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no number above 0; expected such as 2.5M, 6.3Gi, w3a4 or 35%"),
        ("  ", "is no number above 0"),
        ("0", "expected a number above 0"),
        ("0.0001", "expected a number above 0"),
        ("-1", "is no number above 0"),
        ("-5%", "is no number above 0"),
        ("inf", "is no number"),
        ("nan", "is no number"),
        ("None", "is no number"),
        ("6,3G", "is no number"),  # not 63 G
        ("1,00", "is no number"),
        ("1__0M", "is no number"),
        ("1.2.3M", "is no number"),
        ("0x10M", "unknown suffix|is no number"),
        ("1e999999999", "is no number"),
        ("9" * 5000, "is no number"),
        ("٣M", "is no number"),
        ("6.3GB", "unknown suffix 'GB'; expected K M G T"),
        ("6.3gi", "unknown suffix 'gi'"),
        ("3m", "unknown suffix 'm'"),
        ("3 Kib", "unknown suffix 'Kib'"),
        ("0%", "more than 0 %"),
        ("100.5%", "at most 100 %"),
        ("w0a4", "is no number"),
        ("w4", "is no number"),
        ("w4a", "is no number"),
        ("w9a4", "expected 1 to 8 bits"),
        ("w4a16", "expected 1 to 8 bits"),
        ("0.001%", "below the cheapest architecture of 'toy'"),
        ("w1a1", "below the cheapest"),
    ],
)
def test_invalid_and_infeasible_budgets_are_explained(text, message):
    table = CostTable(toy_space(scale=1000, axes={"op": ["conv"], "bits": [[2, 2], [4, 4]]}))
    with pytest.raises(BudgetError, match=message):
        parse_budget(text, "bitops", table)


def test_a_budget_that_is_too_low_names_the_range():
    with pytest.raises(
        BudgetError, match=rf"budget 190K \(190,000\) is below .* \({LOW:,}\); feasible: .* to "
    ) as caught:
        parse_budget("190K", "bitops", TABLE)
    assert human(HIGH) in str(caught.value)
    assert parse_budget(str(LOW), "bitops", TABLE).limit == LOW
    with pytest.raises(BudgetError):
        parse_budget(str(LOW - 1), "bitops", TABLE)


def test_bits_are_a_budget_of_bitops_and_weight_bytes_only():
    weights = [max(1, m * 1000 // 4) for m in (96, 120, 48, 192, 240)]
    floats = 4 * (100_000 // 4 + 40_000 // 4)
    assert parse_budget("w3a4", "weight_bytes", TABLE).limit == floats + sum(-(-n * 3 // 8) for n in weights)
    assert parse_budget("w2a2", "bitops_total", TABLE).limit == 4 * 696_000 + 1024 * 140_000
    for metric in ("macs", "params", "float_macs"):
        with pytest.raises(BudgetError, match=f"bit-widths do not determine {metric}"):
            parse_budget("w4a4", metric, TABLE)


def test_full_precision_spaces_have_budgets_other_than_bitops():
    table = CostTable(toy_space(**VARIANTS["full precision"]))
    with pytest.raises(BudgetError, match="full precision and has no BitOps; give --macs-budget or --params-budget"):
        parse_budget("50%", "bitops", table)
    assert parse_budget("50%", "macs", table).limit == cost_range(table, "macs")[1] // 2


def test_percentages_of_huge_costs_are_exact():
    macs = 10**16 + 61
    only = (layer("a", None, None, macs),)
    table = CostTable(
        resolve(toy_spec(axes={"bits": [[1, 1], [3, 3]]}, keep_float=[]), NetworkShapes((), only, (), only))
    )
    assert cost_range(table, "bitops") == (macs, 9 * macs)
    assert parse_budget("100%", "bitops", table).limit == 9 * macs


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1K"), (2_306_867, "2.307M"), (6_764_573_491, "6.765G"), (10**12, "1T")],
)
def test_human_readable_counts(value, text):
    assert human(value) == text


def test_keys_are_valid_in_file_names():
    budgets = [Budget("weight_bytes", 1, " 1,024 Ki"), Budget("bitops", 2, "35%")]
    assert budgets_key(budgets) == "bitops-35pct+weight_bytes-1024Ki"
    assert budgets_key([]) == "unbounded"
    assert budgets_json(budgets) == {"weight_bytes": 1, "bitops": 2}


def test_a_budget_that_excludes_nothing_gives_a_warning():
    assert budget_warnings([Budget("bitops", HIGH - 1, "x")], TABLE) == []
    (warning,) = budget_warnings([Budget("bitops", HIGH, "99G"), Budget("macs", 300_000, "300K")], TABLE)
    assert "bitops budget 99G excludes nothing" in warning
    assert human(HIGH) in warning


def test_costs_keep_budgets_up_to_their_limits():
    budgets = [Budget("bitops", 10, "x", low=5), Budget("macs", 7, "y")]
    assert keeps({"bitops": 10, "macs": 7}, budgets)
    assert keeps({"bitops": 5, "macs": 0}, budgets)
    for costs in ({"bitops": 11, "macs": 7}, {"bitops": 4, "macs": 7}, {"bitops": 10, "macs": 8}):
        assert not keeps(costs, budgets)
