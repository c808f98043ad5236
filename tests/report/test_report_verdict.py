from __future__ import annotations

from typing import Any

import report_sample as sample

from spos_quant.report import verdict
from spos_quant.report.facts import keeps_budget, leading, steps
from spos_quant.report.verdict import remarks

GENES = "0,1,1,0,1,1,0,1,1,0,1,1"


def searched(top1: float | None, bitops: int = 2_310_000, **more: Any) -> dict[str, Any]:
    return sample.result("bitops-2.5M", "searched", GENES, top1, bitops=bitops, supernet=0.93, **more)


def uniform(top1: float | None, bitops: int, name: str = "w3a3", n: int = 360) -> dict[str, Any]:
    return sample.result(f"bits-{name}", "uniform", GENES, top1, bitops=bitops, n=n)


def test_a_search_that_wins() -> None:
    data = sample.with_results(searched(0.961), uniform(0.955, 2_587_200))
    assert verdict(data) == (
        "Within 2.5M BitOps the search found 96.1 % on the test split; uniform w3a3 costs 12 % more and reaches 95.5 %."
    )


def test_a_uniform_configuration_that_wins_at_lower_cost() -> None:
    data = sample.with_results(searched(0.955), uniform(0.961, 2_079_000), uniform(0.7, 2_310_000, "w1a2"))
    assert verdict(data) == (
        "Within 2.5M BitOps the search found 95.5 % on the test split; uniform w3a3 does better within the same "
        "budget: it costs 10 % less and reaches 96.1 %."
    )


def test_a_uniform_configuration_that_wins_within_the_budget_at_higher_cost() -> None:
    data = sample.with_results(searched(0.955, 2_000_000), uniform(0.961, 2_400_000))
    assert "uniform w3a3 does better within the same budget: it costs 20 % more and reaches 96.1 %" in verdict(data)


def test_a_better_baseline_over_budget_is_mentioned_and_does_not_win() -> None:
    data = sample.with_results(searched(0.955), uniform(0.99, 4_620_000))
    assert verdict(data).endswith("; uniform w3a3 costs 2.0 times as much and reaches 99.0 %.")


def test_a_tie_is_no_gain() -> None:
    data = sample.with_results(searched(0.955), uniform(0.955, 2_310_000))
    assert verdict(data).endswith(
        "uniform w3a3 does as well within the same budget: it costs the same and reaches the same 95.5 %."
    )


def test_a_tie_at_higher_cost_is_a_gain() -> None:
    data = sample.with_results(searched(0.955), uniform(0.955, 2_400_000))
    assert verdict(data).endswith("; uniform w3a3 costs 4 % more and reaches the same 95.5 %.")


def test_the_nearest_in_cost_is_compared_with() -> None:
    data = sample.with_results(searched(0.961), uniform(0.9, 900_000, "w1a2"), uniform(0.95, 2_600_000))
    assert "uniform w3a3" in verdict(data)


def test_nothing_to_compare_with() -> None:
    data = sample.with_results(searched(0.961))
    assert verdict(data).endswith(
        "96.1 % on the test split; no uniform configuration is scored on that split to compare with."
    )
    assert steps(data)[-1].command.startswith("spos-quant retrain runs/digits-mixed --bits w")


def test_accuracies_of_different_splits_are_not_compared() -> None:
    baseline = uniform(0.99, 2_000_000) | {"test": None}
    assert "no uniform configuration is scored on that split" in verdict(sample.with_results(searched(0.961), baseline))
    data = sample.with_results(searched(0.961) | {"test": None}, baseline)
    assert "96.1 % on search-val; uniform w3a3 does better within the same budget" in verdict(data)


def test_before_retraining_supernet_scores_are_compared() -> None:
    baselines = [{"name": "w3a3", "cost": 2_587_200, "score": 0.925}]
    data = sample.with_results(searched(None), uniform(0.99, 2_000_000), baselines=baselines)
    assert verdict(data) == (
        "Within 2.5M BitOps the search found an architecture of 93.0 % in the supernet, not retrained yet; "
        "uniform w3a3 costs 12 % more and reaches 92.5 %."
    )
    found = [step.command for step in steps(data)]
    assert "spos-quant retrain runs/digits-mixed --result bitops-2.5M" in found
    assert "no uniform configuration is scored in the supernet" in verdict({**data, "baselines": []})


def test_a_broken_budget_is_reported() -> None:
    result = searched(0.961, 2_610_000)
    assert keeps_budget(result) is False
    assert verdict(sample.with_results(result)).startswith(
        "The search for 2.5M BitOps broke its budget with 2.61M BitOps; it found 96.1 % on the test split;"
    )


def test_a_budget_in_a_metric_without_a_cost_is_neither_kept_nor_broken() -> None:
    assert keeps_budget(searched(0.9) | {"budget": {"bitops": 2_500_000, "latency": 3}}) is None
    assert keeps_budget(searched(0.9) | {"budget": None}) is None


def test_several_limits_and_none() -> None:
    both = searched(0.961) | {"budget": {"bitops": 2_500_000, "weight_bytes": 40_000}}
    assert verdict(sample.with_results(both)).startswith("Within 2.5M BitOps and 40K bytes of weights the search found")
    none = searched(0.961) | {"budget": None, "key": "drop-0.01"}
    assert verdict(sample.with_results(none)).startswith("The search drop-0.01 found 96.1 %")


def test_without_a_search() -> None:
    assert verdict(sample.with_results(uniform(0.972, 9_000_000, "w4a4"))) == (
        "No search has finished yet; uniform w4a4 reaches 97.2 % on the test split at 9M BitOps."
    )
    trained = sample.trained_only()
    assert verdict(trained).startswith("The supernet is trained (50 epochs, 8")
    assert [step.command for step in steps(trained)] == ["spos-quant search runs/digits-mixed --bitops-budget 35%"]
    nothing = {**trained, "history": [], "commands": []}
    assert verdict(nothing) == "Nothing is trained yet."
    assert [step.command for step in steps(nothing)] == ["spos-quant train digits-mixed --out RUN"]


def test_full_precision_is_compared_with_the_published_backbone_in_macs() -> None:
    assert verdict(sample.full_precision()) == (
        "Within 400K MACs the search found 96.1 % on the test split; "
        "the backbone as published costs 48 % more and reaches 98.6 %."
    )


def test_the_test_split_does_not_choose_what_leads() -> None:
    first = searched(0.95) | {"key": "first"}
    second = searched(0.97) | {"key": "second", "search_val": {"top1": 0.90, "loss": 0.3, "n": 287}}
    result = leading(sample.with_results(second, first))
    assert result is not None
    assert result["key"] == "first"


def test_remarks_name_chance_float_and_the_other_budgets() -> None:
    other = searched(0.94, 900_000) | {"key": "bitops-1M", "budget": {"bitops": 1_000_000}}
    reference = sample.result("bits-float", "float", None, 0.986)
    data = sample.with_results(searched(0.961), other, uniform(0.955, 2_587_200), reference)
    chance, gap, rest = remarks(data)
    assert chance == "On 360 images a difference of 0.6 points is within chance: it is 2 of the images."
    assert gap.startswith("The backbone in float reaches 98.6 % on the test split; its weights take ")
    assert rest.startswith("Within 1M BitOps the search found 94.0 % on the test split;")
    certain = sample.with_results(searched(0.961, n=10**6), uniform(0.955, 2_587_200, n=10**6))
    assert remarks(certain) == []


def test_the_command_of_a_search_that_ended_early() -> None:
    def again(key: str, budget: dict[str, int] | None, texts: dict[str, str]) -> str:
        result = searched(0.961) | {"key": key, "budget": budget, "complete": False}
        budgets = [{"key": key, "metric": m, "limit": (budget or {})[m], "text": text} for m, text in texts.items()]
        return steps(sample.with_results(result, budgets=budgets))[0].command

    start = "spos-quant search runs/digits-mixed"
    both = {"bitops": 2_500_000, "weight_bytes": 40_000}
    assert again("bitops-35pct", {"bitops": 2_500_000}, {"bitops": "35%"}) == f"{start} --bitops-budget 35%"
    assert again("bitops-2.5M+weight_bytes-40K", both, {"bitops": "2.5M", "weight_bytes": "40K"}) == (
        f"{start} --bitops-budget 2.5M --weight-bytes-budget 40K"
    )
    assert again("bitops-w3a3-random", {"bitops": 7}, {}) == f"{start} --bitops-budget 7 --searcher random"
    assert again("drop-0.01", None, {}) == f"{start} --max-accuracy-drop 0.01"
    assert again("drop-0.01-random", None, {}) == f"{start} --max-accuracy-drop 0.01 --searcher random"


def test_an_early_end_without_a_known_extent() -> None:
    unknown = {"key": "other", "complete": False, "planned": None, "asked": 0}
    data = sample.with_results(searched(0.961) | unknown, config={})
    assert verdict(data).endswith(
        " This search was ended early by the time limit: 0 architectures; repeat its command to resume."
    )
