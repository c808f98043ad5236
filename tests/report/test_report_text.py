from __future__ import annotations

import pytest

from spos_quant.report import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.961, "96.1 %"),
        (0.0, "0.0 %"),
        (1.0, "100 %"),
        (0.9996, "99.96 %"),
        (0.999999, "> 99.99 %"),
        (None, text.NONE),
        (float("nan"), text.NONE),
    ],
)
def test_percent_claims_100_only_where_it_is_reached(value: float | None, shown: str) -> None:
    assert text.percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, text.NONE), (0, "0 B"), (999, "999 B"), (5_504, "5.5 kB"), (38_912, "38.9 kB"), (999_900, "1,000 kB")],
)
def test_file_size(value: int | None, shown: str) -> None:
    assert text.file_size(value) == shown


def test_count_is_that_of_the_command_line() -> None:
    assert text.count(2_312_192) == "2.312M"
    assert text.count(None) == text.NONE


def test_space_size_holds_any_integer() -> None:
    assert text.space_size(55_885) == "55,885"
    assert text.space_size(18**8) == "1.10 \u00d7 10¹⁰"
    assert (
        text.space_size(10**5000) == "1.00 \u00d7 10⁵⁰⁰⁰"
    )  # too large for a float and for Python's decimal conversion


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("2.5M", "2.5M BitOps"),
        ("2,500,000", "2.5M BitOps"),
        (None, "2.5M BitOps"),
        ("35%", "35% = 2.5M BitOps"),
        ("w3a3", "w3a3 = 2.5M BitOps"),
        ("2.384Mi", "2.384Mi = 2.5M BitOps"),
    ],
)
def test_budget_shows_its_value(given: str | None, shown: str) -> None:
    assert text.budget_text("bitops", 2_500_000, given) == shown


def test_half_interval_is_wilsons() -> None:
    # 95 of 100: Wilson's interval is [0.8882, 0.9785].
    assert text.half_interval(0.95, 100) == pytest.approx((0.9785 - 0.8882) / 2, abs=1e-4)
    assert text.half_interval(1.0, 100) > 0


def test_by_chance_needs_numbers_of_images() -> None:
    assert text.by_chance({"top1": 0.961, "n": 360}, {"top1": 0.955, "n": 360})
    assert not text.by_chance({"top1": 0.961, "n": 10**6}, {"top1": 0.955, "n": 10**6})
    assert not text.by_chance({"top1": 0.961}, {"top1": 0.955})


@pytest.mark.parametrize(
    ("metric", "value", "alone", "named"),
    [
        ("bitops", 2_312_000, "2.312M", "2.312M BitOps"),
        ("latency", 2_312_400, "2.312 ms", "2.312 ms"),
        ("latency", 950, "950 ns", "950 ns"),
        ("latency", None, text.NONE, text.NONE),
    ],
)
def test_costs_with_and_without_their_metric(metric, value, alone, named):
    assert (text.cost(metric, value), text.amount(metric, value)) == (alone, named)
