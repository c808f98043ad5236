"""The sensitivity section: loss increase of each single-layer perturbation of the most expensive architecture."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from spos_quant.report.describe import candidate_text
from spos_quant.report.facts import Data
from spos_quant.report.markup import Markup, element, head_cell, join, number_cell, plot, section, table
from spos_quant.report.text import NONE, count, exact, known, unit

_DESCRIPTIONS = {
    "measured": "Measured: each bar is one evaluation in the supernet on search-val minus that of the reference.",
    "gradient": "From gradients: the Fisher information of the reference times the squared error of its layers.",
}


def sensitivity_payload(data: Data) -> list[dict[str, Any]]:
    """Per estimate, the bars of every candidate: one per axis with that candidate."""
    return [_bars(found) for found in data.get("sensitivities") or ()]


def _bars(found: Mapping[str, Any]) -> dict[str, Any]:
    key = _key(found)
    bars: dict[str, dict[str, list[Any]]] = {}
    for row in found["rows"]:
        bar = bars.setdefault(_candidate(row), {"x": [], "y": []})
        bar["x"].append(escape(_axis_name(row)))
        bar["y"].append(row[key])
    axes = list(dict.fromkeys(escape(_axis_name(row)) for row in found["rows"]))
    named = [{"name": escape(name), **bar} for name, bar in bars.items()]
    return {"id": _plot_id(found), "axes": axes, "bars": named, "title": _what(key)}


def _key(found: Mapping[str, Any]) -> str:
    """The key that the bars show: `loss`, or `score` if no loss is known."""
    return "loss" if any(known(row["loss"]) for row in found["rows"]) else "score"


def _what(key: str) -> str:
    return "loss increase" if key == "loss" else "score decrease"


def _plot_id(found: Mapping[str, Any]) -> str:
    return f"sensitivity-{found['estimate']}-plot"


def _axis_name(row: Mapping[str, Any]) -> str:
    """The name of an axis without its kind, which the candidate's text shows."""
    return str(row["axis"]).removesuffix(f".{row['kind']}")


def _candidate(row: Mapping[str, Any]) -> str:
    return candidate_text(row["kind"], row["candidate"])


def sensitivity_section(data: Data) -> Markup | None:
    """The bar charts and tables; None if there are no sensitivities."""
    estimates = data.get("sensitivities") or ()
    if not estimates:
        return None
    intro = (
        "The loss increase (or score decrease) if one axis of the most expensive architecture, the reference, takes "
        "another candidate. Negative bars are improvements, or noise from the finite number of images."
    )
    return section("sensitivity", "Sensitivity", element("p.note", intro), *(_panel(found) for found in estimates))


def _panel(found: Mapping[str, Any]) -> Markup:
    label = f"{_what(_key(found)).capitalize()} per axis and candidate, {found['estimate']}; a table follows"
    return join(
        (
            element("p.note", _DESCRIPTIONS[found["estimate"]]),
            plot(_plot_id(found), label),
            element("details", element("summary", f"As a table: {len(found['rows'])} candidates"), _table(found)),
        )
    )


def _table(found: Mapping[str, Any]) -> Markup:
    metric = found["metric"]
    head = [
        head_cell("Axis"),
        head_cell("From"),
        head_cell("To"),
        head_cell("Loss increase", number=True, hint="Mean cross-entropy in nats"),
        head_cell("Top-1 decrease", number=True, hint="In percentage points"),
        head_cell(f"{unit(metric)} saved", number=True),
    ]
    rows = []
    for row in found["rows"]:
        loss, score = row["loss"], row["score"]
        saved = element("span", count(row["saved"]), attributes={"title": exact(row["saved"])})
        rows.append(
            element(
                "tr",
                element("td", row["axis"]),
                element("td", candidate_text(row["kind"], row["from"])),
                element("td", _candidate(row)),
                number_cell(f"{loss:+.4f}" if known(loss) else NONE, loss),
                number_cell(f"{100 * score:+.2f}" if known(score) else NONE, score),
                number_cell(saved, row["saved"]),
            )
        )
    return table(head, rows, label=f"Sensitivities, {found['estimate']}", css=".sortable")
