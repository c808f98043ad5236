"""The data of the plots, and the sections with the cost-accuracy plot and the learning curves.

The page's script draws the data with Plotly in the colours of the reader's theme.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from spos_quant.report.bench import bench_payload
from spos_quant.report.describe import places, result_places
from spos_quant.report.facts import Data, Result, cost_of, early_ends, ended_early, ordered, skipped_steps
from spos_quant.report.markup import Markup, element, head_cell, join, number_cell, plot, section, table
from spos_quant.report.ranking import ranking_payload
from spos_quant.report.sensitivity import sensitivity_payload
from spos_quant.report.text import NONE, budget_text, count, exact, known, percent, unit


def payload(data: Data) -> dict[str, Any]:
    """The data of all plots, as JSON values."""
    return {
        "unit": unit(data["metric"]),
        "plane": _plane(data),
        "curves": _curves(data),
        "ranking": ranking_payload(data),
        "bench": bench_payload(data),
        "sensitivities": sensitivity_payload(data),
    }


def _plane(data: Data) -> dict[str, Any]:
    metric = data["metric"]
    evaluations = data.get("evaluations") or ()
    return {
        "points": {
            "x": [e["cost"] for e in evaluations],
            "y": [e["score"] for e in evaluations],
            "generation": [e.get("generation") for e in evaluations],
            "text": [_lines(places(e.get("describe") or {})) for e in evaluations],
            "architecture": [e["architecture"] for e in evaluations],
        },
        "front": list(data.get("front") or ()),
        "baselines": [
            {"name": escape(str(b["name"])), "x": b["cost"], "y": b["score"]} for b in data.get("baselines") or ()
        ],
        "winners": [
            _winner(data, r)
            for r in ordered(data)
            if r["kind"] == "searched" and known(r.get("supernet_top1")) and cost_of(r, metric)
        ],
        "budgets": _budget_lines(data),
    }


def _winner(data: Data, result: Result) -> dict[str, Any]:
    cost, score = cost_of(result, data["metric"]), result["supernet_top1"]
    # The result's evaluation, if cost and score identify it: selecting the result can then show its architecture.
    points = [
        i
        for i, e in enumerate(data.get("evaluations") or ())
        if (e["cost"], e["score"]) == (cost, score) and result["key"] in e["searches"]
    ]
    return {
        "name": escape(result["key"]),
        "x": cost,
        "y": score,
        "text": _lines(result_places(result)),
        "point": points[0] if len(points) == 1 else None,
        "early": ended_early(result),
    }


def _budget_lines(data: Data) -> list[dict[str, Any]]:
    """One line per budget limit in the run's metric; searches with equal limits share a line."""
    lines = {}
    for item in data.get("budgets") or ():
        if item["metric"] == data["metric"]:
            shown = budget_text(item["metric"], item["limit"], item.get("text"))
            lines[item["limit"]] = escape(shown.removesuffix(f" {unit(item['metric'])}"))
    return [{"x": limit, "name": name} for limit, name in sorted(lines.items())]


def _lines(lines: Iterable[str]) -> str:
    """Lines joined for Plotly, escaped because Plotly interprets some HTML tags in texts."""
    return "<br>".join(escape(line) for line in lines)


def _curves(data: Data) -> list[dict[str, Any]]:
    named = [("supernet", data.get("history") or ()), *((r["key"], r.get("history") or ()) for r in ordered(data))]
    return [
        {
            "name": escape(name),
            "epoch": [record.get("epoch") for record in history],
            "loss": [record.get("loss") for record in history],
            "top1": [record.get("top1") for record in history],
            "skipped": [record.get("skipped") or 0 for record in history],
        }
        for name, history in named
        if history
    ]


def plane_section(data: Data) -> Markup:
    """Plots accuracy against cost of all evaluated architectures; shows the Pareto front as a table."""
    early = early_ends(data)
    title = "Accuracy against cost" + (": a search ended early" if early else "")
    evaluations = data.get("evaluations") or ()
    if not evaluations:
        return section("plane", title, element("p.empty", "No architecture is evaluated yet: a search does that."))
    name = unit(data["metric"])
    label = f"Top-1 in the supernet against {name} of {len(evaluations):,} architectures; the front follows as a table"
    of = data.get("evaluated") or len(evaluations)
    share = f" The plot shows {len(evaluations):,} of {of:,}, including the fronts; evaluations.csv has all."
    intro = (
        f"Top-1 in the supernet on search-val, before retraining, against {name} of every evaluated architecture. "
        f"Up and to the left is better; selecting a point shows its architecture below."
        f"{share if of > len(evaluations) else ''}"
    )
    if any(e["cost"] <= 0 for e in evaluations):
        intro += f" The logarithmic axis omits architectures of 0 {name}."
    buttons = (
        _button("plane-log", f"Logarithmic {name}"),
        _button("plane-front", "Zoom to the front"),
    )
    return section(
        "plane",
        title,
        *(element("p.warning", f"{what} Repeat its command to resume.") for what in early),
        element("p.note", intro),
        element("div.tools", *buttons, attributes={"role": "group", "aria-label": "How the plot is shown"}),
        plot("plane-plot", label),
        element("div.picked", attributes={"id": "picked", "hidden": True, "aria-live": "polite"}),
        _front_table(data, evaluations),
    )


def _button(name: str, title: str) -> Markup:
    return element("button", title, attributes={"id": name, "type": "button", "aria-pressed": "false"})


def _front_table(data: Data, evaluations: Sequence[Mapping[str, Any]]) -> Markup | None:
    front = [evaluations[i] for i in data.get("front") or ()]
    if not front:
        return None
    head = [
        head_cell(unit(data["metric"]), number=True),
        head_cell("Top-1 in supernet", number=True),
        head_cell("Loss", number=True),
        head_cell("Generation", number=True),
        head_cell("Architecture"),
    ]
    rows = []
    for item in sorted(front, key=lambda e: e["cost"]):
        loss, generation = item.get("loss"), item.get("generation")
        described = join(element("div", line) for line in places(item.get("describe") or {}))
        cost = element("span", count(item["cost"]), attributes={"title": exact(item["cost"])})
        rows.append(
            element(
                "tr",
                number_cell(cost, item["cost"]),
                number_cell(percent(item["score"]), item["score"]),
                number_cell(f"{loss:.3f}" if known(loss) else NONE, loss),
                number_cell(NONE if generation is None else generation, generation),
                element("td", element("code", item["architecture"]), element("div.places", described)),
            )
        )
    folded = element(
        "details",
        element("summary", f"The Pareto front as a table: {len(front)} architectures"),
        table(head, rows, label="Architectures on the front", css=".front.sortable"),
    )
    return join((_hypervolume(data), folded))


def _hypervolume(data: Data) -> Markup | None:
    """The hypervolume of the front and its reference point; None if there is no front."""
    found = (data.get("fronts") or {}).get(data["metric"])
    if not found:
        return None
    reference = found["reference"]
    return element(
        "p.note",
        f"Hypervolume of the front: {percent(found['hypervolume'])} of the area between the reference point and the "
        f"ideal point. The reference is the score of chance, {percent(reference['score'])}, at the cost of the most "
        f"expensive architecture, {count(reference['cost'])} {unit(data['metric'])}.",
    )


def curves_section(data: Data) -> Markup:
    """Plots loss and accuracy per epoch."""
    found = _curves(data)
    if not found:
        return section("curves", "Learning curves", element("p.empty", "No training is recorded yet."))
    names = ", ".join(str(curve["name"]) for curve in found)
    note = (
        "Measured on training images during training. The supernet samples new paths at every step, so its curve is "
        "the mean over those paths."
    )
    plots = element(
        "div.pair",
        plot("loss-plot", "Training loss per epoch"),
        plot("top1-plot", "Top-1 on training images per epoch"),
    )
    skipped = skipped_steps(data)
    warning = f"Steps skipped because their loss was not finite: {skipped}." if skipped else None
    legend = element("div.legend", attributes={"id": "curves-legend", "aria-label": Markup(f"Curves of {names}")})
    return section(
        "curves",
        "Learning curves",
        element("p.warning", warning) if warning else None,
        element("p.note", note),
        legend,
        plots,
    )
