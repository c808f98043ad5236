"""The ranking section: does the supernet rank architectures as stand-alone training does?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spos_quant.report.facts import Data
from spos_quant.report.markup import Markup, element, head_cell, number_cell, plot, section, table
from spos_quant.report.text import JUDGES, NONE, count, known, percent, points, unit

_FIGURES = (
    ("kendall", "Kendall's tau", "Share of concordant pairs minus share of discordant pairs; 1 is the same order"),
    ("kendall_of_one", "against one seed", "Mean tau against single trainings; the ceiling bounds it"),
    ("spearman", "Spearman", "Spearman's rank correlation"),
    ("within_strata", "Tau within strata", "Mean tau within groups of similar cost, where bits matter little"),
    ("residual", "Tau beyond cost", "Tau of the residuals of a quadratic fit in log cost"),
)


def ranking_payload(data: Data) -> dict[str, Any] | None:
    """The data of the ranking's scatter plot; None if there is no ranking."""
    ranking = data.get("ranking")
    if not ranking:
        return None
    rows = ranking["rows"]
    return {
        "unit": unit(ranking["metric"]),
        "x": [row["supernet_top1"] for row in rows],
        "y": [row["alone_top1"] for row in rows],
        "low": [row["alone_top1"] - min(one["top1"] for one in row["alone"]) for row in rows],
        "high": [max(one["top1"] for one in row["alone"]) - row["alone_top1"] for row in rows],
        "cost": [row["cost"] for row in rows],
        "architecture": [row["architecture"] for row in rows],
    }


def ranking_section(data: Data) -> Markup | None:
    """The scatter plot and figures; None if there is no ranking."""
    ranking = data.get("ranking")
    if not ranking:
        return None
    rows, seeds = ranking["rows"], len(ranking["seeds"])
    low, high = ranking["band"]
    times = "once" if seeds == 1 else f"with {seeds} seeds"
    note = (
        f"{len(rows)} architectures of {count(low)} to {count(high)} {unit(ranking['metric'])}, sampled uniformly over "
        f"the cost, each trained stand-alone {times} from the same start. All accuracies are on search-val."
    )
    label = "Top-1 of stand-alone training against top-1 in the supernet"
    return section(
        "ranking",
        "Ranking",
        element("p.note", note),
        plot("ranking-plot", label),
        _figures(ranking),
        element("p.note", _regret_text(ranking)),
    )


def _figures(ranking: Mapping[str, Any]) -> Markup:
    head = [head_cell("Ranked by"), *(head_cell(name, number=True, hint=hint) for _, name, hint in _FIGURES)]
    rankings = (
        *((title, ranking["judges"][key]) for key, title in JUDGES.items() if key in ranking["judges"]),
        ("cost alone", ranking["by_cost"]),
        ("another seed of stand-alone training (the ceiling)", ranking["ceiling"] or {}),
    )
    rows = [
        element(
            "tr",
            element("th", name, attributes={"scope": "row"}),
            *(number_cell(_tau(found, key), found.get(key)) for key, _, _ in _FIGURES),
        )
        for name, found in rankings
        if found
    ]
    return table(head, rows, label="Rank correlation with stand-alone training", css=".ranking")


def _tau(found: Mapping[str, Any], key: str) -> str:
    value, interval = found.get(key), found.get({"kendall": "interval", "residual": "residual_interval"}.get(key, ""))
    if not known(value):
        return NONE
    return f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _regret_text(ranking: Mapping[str, Any]) -> str:
    regret = ranking["judges"]["top1"]["regret"]
    best = max(row["alone_top1"] for row in ranking["rows"])
    parts = [
        f"its first is {points(lost)} lower" if k == "1" else f"the best of its first {k} is {points(lost)} lower"
        for k, lost in regret.items()
    ]
    text = f"The best stand-alone accuracy is {percent(best)}."
    if not parts:
        return text
    return f"{text} Ranked by accuracy in the supernet, {', '.join(parts)}. In brackets: 95 % bootstrap intervals."
