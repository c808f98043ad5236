"""What the page's plots are drawn from; `page.js` turns it into Plotly figures in the colours of the reader's theme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from spos_quant.report.facts import Data, cost_of, ordered
from spos_quant.report.markup import Markup, element, head_cell, join, number_cell, section, table
from spos_quant.report.text import NONE, bits, budget_text, count, exact, known, percent, unit

SHOWN_PLACES = 18
"""Lines of an architecture in a hover text; more would leave the screen."""


def payload(data: Data) -> dict[str, Any]:
    """Everything that is plotted, as JSON values."""
    return {"unit": unit(data["metric"]), "plane": _plane(data), "curves": _curves(data)}


def _plane(data: Data) -> dict[str, Any]:
    metric = data["metric"]
    evaluations = data.get("evaluations") or ()
    return {
        "points": {
            "x": [e["cost"] for e in evaluations],
            "y": [e["score"] for e in evaluations],
            "generation": [e.get("generation") for e in evaluations],
            "text": [_hover(e) for e in evaluations],
            "architecture": [e["architecture"] for e in evaluations],
        },
        "front": list(data.get("front") or ()),
        "baselines": [
            {"name": escape(str(b["name"])), "x": b["cost"], "y": b["score"]} for b in data.get("baselines") or ()
        ],
        "winners": [
            {"name": escape(r["key"]), "x": cost_of(r, metric), "y": r["supernet_top1"]}
            for r in ordered(data)
            if r["kind"] == "searched" and known(r.get("supernet_top1")) and cost_of(r, metric)
        ],
        "budgets": _budget_lines(data),
    }


def _budget_lines(data: Data) -> list[dict[str, Any]]:
    """One line per limit in the metric of the plane; two searches under one budget share it."""
    lines = {}
    for item in data.get("budgets") or ():
        if item["metric"] == data["metric"]:
            shown = budget_text(item["metric"], item["limit"], item.get("text"))
            lines[item["limit"]] = escape(shown.removesuffix(f" {unit(item['metric'])}"))
    return [{"x": limit, "name": name} for limit, name in sorted(lines.items())]


def places(describe: Mapping[str, Any]) -> list[str]:
    """An architecture in one line per place: `layer1.0: conv3x3, width 1.0, w2a4`.

    Axes are named by what reads them (`layer1.0.op`); an axis that several places share keeps its own name.
    """
    lines: dict[str, list[str]] = {}
    for axis, value in describe.items():
        place, _, kind = axis.rpartition(".")
        if kind not in _SPOKEN:
            place, kind = axis, ""
        lines.setdefault(place, []).append(_SPOKEN.get(kind, _plain)(value))
    return [f"{place}: {', '.join(parts)}" for place, parts in lines.items()]


def _plain(value: Any) -> str:
    return _pair(value) if isinstance(value, (list, tuple)) else str(value)


def _pair(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        weight, act = value
        return "float" if weight is None and act is None else f"w{bits(weight)}a{bits(act)}"
    return str(value)


_SPOKEN: Mapping[str, Callable[[Any], str]] = {
    "op": str,
    "width": lambda value: f"width {value}",
    "bits": _pair,
    "weight_bits": lambda value: f"weights {bits(value)}",
    "act_bits": lambda value: f"inputs {bits(value)}",
}


def _hover(evaluation: Mapping[str, Any]) -> str:
    """An architecture as Plotly shows it, which reads some markup in its texts."""
    lines = places(evaluation.get("describe") or {})
    if len(lines) > SHOWN_PLACES:
        lines = [*lines[: SHOWN_PLACES - 1], f"and {len(lines) - SHOWN_PLACES + 1} more"]
    return "<br>".join(escape(line) for line in lines)


def _curves(data: Data) -> list[dict[str, Any]]:
    named = [("supernet", data.get("history") or ()), *((r["key"], r.get("history") or ()) for r in ordered(data))]
    return [
        {
            "name": escape(name),
            "epoch": [record.get("epoch") for record in history],
            "loss": [record.get("loss") for record in history],
            "top1": [record.get("top1") for record in history],
        }
        for name, history in named
        if history
    ]


def plane_section(data: Data) -> Markup:
    """Accuracy against cost of everything evaluated, and the front as a table."""
    title = "Accuracy against cost"
    evaluations = data.get("evaluations") or ()
    if not evaluations:
        return section("plane", title, element("p.empty", "No architecture is evaluated yet: a search does that."))
    name = unit(data["metric"])
    label = f"Top-1 in the supernet against {name} of {len(evaluations):,} architectures; the front follows as a table"
    intro = (
        f"Every architecture that was evaluated in the supernet, on search-val and before retraining, against its "
        f"{name}. Up and to the left is better; selecting a point keeps its architecture below."
    )
    if any(e["cost"] <= 0 for e in evaluations):
        intro += f" A logarithmic axis has no place for those that cost no {name}."
    buttons = (
        _button("plane-log", f"Logarithmic {name}"),
        _button("plane-front", "Zoom to the front"),
    )
    return section(
        "plane",
        title,
        element("p.note", intro),
        element("div.tools", *buttons, attributes={"role": "group", "aria-label": "How the plot is shown"}),
        _plot("plane-plot", label),
        element("div.picked", attributes={"id": "picked", "hidden": True, "aria-live": "polite"}),
        _front_table(data, evaluations),
    )


def _button(name: str, title: str) -> Markup:
    return element("button", title, attributes={"id": name, "type": "button", "aria-pressed": "false"})


def _plot(name: str, label: str) -> Markup:
    return element("div.plot", attributes={"id": name, "role": "img", "aria-label": label})


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
    return element(
        "details",
        element("summary", f"The front as a table: {len(front)} architectures that none beats in both"),
        table(head, rows, label="Architectures on the front", css=".front.sortable"),
    )


def curves_section(data: Data) -> Markup:
    """Loss and accuracy per epoch."""
    found = _curves(data)
    if not found:
        return section("curves", "Learning curves", element("p.empty", "No training is recorded yet."))
    names = ", ".join(str(curve["name"]) for curve in found)
    note = (
        "Measured on training images while training. The supernet takes another path each step, so that its curve is "
        "that of an average architecture."
    )
    plots = element(
        "div.pair",
        _plot("loss-plot", "Training loss per epoch"),
        _plot("top1-plot", "Top-1 on training images per epoch"),
    )
    legend = element("div.legend", attributes={"id": "curves-legend", "aria-label": Markup(f"Curves of {names}")})
    return section("curves", "Learning curves", element("p.note", note), legend, plots)
