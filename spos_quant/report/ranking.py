"""The part of the page on ranking: does the supernet order architectures as training each alone does?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spos_quant.report.facts import Data
from spos_quant.report.markup import Markup, element, head_cell, number_cell, plot, section, table
from spos_quant.report.text import JUDGES, NONE, count, known, percent, points, unit

_FIGURES = (
    ("kendall", "Kendall's tau", "Share of pairs in the same order less the share in the other; 1 is the same order"),
    ("kendall_of_one", "against one seed", "The mean over single trainings, which is what the ceiling bounds"),
    ("spearman", "Spearman", "Correlation of the ranks"),
    ("within_strata", "Tau within strata", "Mean over groups of like cost, where more bits do not decide"),
    ("residual", "Tau beyond cost", "Of what a parabola in the logarithm of the cost does not explain"),
)


def ranking_payload(data: Data) -> dict[str, Any] | None:
    """What the scatter plot of a ranking is drawn from; None where there is none."""
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
    """Scatter plot and figures; None where no ranking was made."""
    ranking = data.get("ranking")
    if not ranking:
        return None
    rows, seeds = ranking["rows"], len(ranking["seeds"])
    low, high = ranking["band"]
    times = "once" if seeds == 1 else f"with {seeds} seeds"
    note = (
        f"{len(rows)} architectures of {count(low)} to {count(high)} {unit(ranking['metric'])}, drawn evenly over the "
        f"cost, each trained alone {times} from the same start. Both sides are judged on search-val."
    )
    label = "Top-1 trained alone against top-1 in the supernet"
    return section(
        "ranking",
        "Ranking",
        element("p.note", note),
        plot("ranking-plot", label),
        _figures(ranking),
        element("p.note", _favourites(ranking)),
    )


def _figures(ranking: Mapping[str, Any]) -> Markup:
    head = [head_cell("Judge"), *(head_cell(name, number=True, hint=hint) for _, name, hint in _FIGURES)]
    judges = (
        *((title, ranking["judges"][key]) for key, title in JUDGES.items() if key in ranking["judges"]),
        ("cost alone", ranking["by_cost"]),
        ("another seed of training alone (the ceiling)", ranking["ceiling"] or {}),
    )
    rows = [
        element(
            "tr",
            element("th", name, attributes={"scope": "row"}),
            *(number_cell(_tau(found, key), found.get(key)) for key, _, _ in _FIGURES),
        )
        for name, found in judges
        if found
    ]
    return table(head, rows, label="How well the order of training alone is told", css=".ranking")


def _tau(found: Mapping[str, Any], key: str) -> str:
    value, spread = found.get(key), found.get({"kendall": "interval", "residual": "residual_interval"}.get(key, ""))
    if not known(value):
        return NONE
    return f"{value:.2f}" + (f" ({spread[0]:.2f} to {spread[1]:.2f})" if spread else "")


def _favourites(ranking: Mapping[str, Any]) -> str:
    regret = ranking["judges"]["top1"]["regret"]
    best = max(row["alone_top1"] for row in ranking["rows"])
    parts = [
        f"its favourite is {points(lost)} less" if k == "1" else f"the best of its {k} favourites {points(lost)} less"
        for k, lost in regret.items()
    ]
    told = f"The best of all reaches {percent(best)} trained alone; by the supernet's accuracy {', '.join(parts)}."
    return f"{told} In brackets: 95 % of bootstrap resamples." if parts else told
