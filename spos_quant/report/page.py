"""The report as one HTML page that opens from disk: style, script and data are all inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from spos_quant.report.plots import curves, layers, plane
from spos_quant.report.text import number, percent, verdict

Rows = Sequence[Sequence[object]]


def render(data: Mapping[str, Any]) -> str:
    """The page of a run.

    Args:
        data: What `spos_quant.stages.report.gather` collects; lists may be empty and optional values None.

    Returns:
        HTML that refers to nothing outside itself.
    """
    winner = next((r for r in data["results"] if r["kind"] == "searched"), None)
    figures = {}
    sections = [_models(data)]
    if data["evaluations"]:
        figures["plane"] = plane(data)
        sections.append(_section("Accuracy against cost", _figure("plane", "Everything evaluated in the supernet")))
    if winner:
        if data["metric"] == "bitops":
            figures["layers"] = layers(winner)
            sections.append(
                _section(
                    f"The winner, layer by layer: {winner['key']}", _blocks(winner), _figure("layers", "Bits per layer")
                )
            )
        else:
            sections.append(_section(f"The winner, block by block: {winner['key']}", _blocks(winner)))
    if data["history"]:
        figures["curves"] = curves(data)
        sections.append(_section("Learning curves", _figure("curves", "Loss and accuracy per epoch")))
    if winner:
        sections.append(_section("Cost of the winner", _layer_table(winner)))
    sections += [_commands(data), _details(data)]
    return _document(data, sections, figures)


def _document(data: Mapping[str, Any], sections: list[str], figures: Mapping[str, Any]) -> str:
    from plotly.offline import get_plotlyjs

    own = files("spos_quant.report")
    style, script = (own / "page.css").read_text("utf-8"), (own / "page.js").read_text("utf-8")
    name = escape(str(data["space"]["name"]))
    space = data["space"]
    size = f"{space['size']:.3g}" if space["size"] > 10**6 else f"{space['size']:,}"
    shape = " x ".join(str(v) for v in space["input"])
    facts = f"{space['backbone']}, {size} architectures, input {shape}, {space['classes']} classes"
    library = f"<script>{get_plotlyjs()}</script>" if figures else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: spos-quant report</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body>'
        f"<header><h1>{name}</h1><p class=facts>{escape(facts)}</p>"
        f"<p class=verdict>{escape(verdict(data))}</p></header>"
        f"<main>{''.join(sections)}</main>"
        f'<script type="application/json" id="figures">{_safe_json(figures)}</script>{library}<script>{script}</script>'
        "</body></html>\n"
    )


def _safe_json(value: object) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _figure(name: str, label: str) -> str:
    return f'<div class=plot id="plot-{name}" role=img aria-label="{escape(label)}"></div>'


def _table(head: Sequence[str], rows: Rows, *, css: str = "", row_css: Sequence[str] = ()) -> str:
    """A table; cells that are numbers carry their value for sorting."""

    def cell(value: object) -> str:
        if isinstance(value, tuple):  # (value to sort by, text)
            return f'<td class=n data-v="{escape(str(value[0]))}">{escape(str(value[1]))}</td>'
        if isinstance(value, int) and not isinstance(value, bool):
            return f'<td class=n data-v="{value}">{value:,}</td>'
        return f"<td>{escape(str(value))}</td>"

    heads = "".join(f"<th scope=col>{escape(h)}</th>" for h in head)
    body = "".join(
        f'<tr class="{row_css[i] if i < len(row_css) else ""}">{"".join(map(cell, row))}</tr>'
        for i, row in enumerate(rows)
    )
    return f'<div class=scroll><table class="{css}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _models(data: Mapping[str, Any]) -> str:
    if not data["results"]:
        return _section("Models", "<p>No result yet. <code>spos-quant search</code> makes one.</p>")
    rows = []
    for r in data["results"]:
        cost, exported = r["cost"], (r["export"] or [None])[0]
        kept = "-"
        if r["budget"]:
            kept = "yes" if all((cost[m] or 0) <= limit for m, limit in r["budget"].items()) else "NO"
        rows.append(
            (
                f"{r['kind']} ({r['key']})",
                percent(r["search_val"]["top1"]) if r["search_val"] else "not retrained",
                percent(r["test"]["top1"]) if r["test"] else "-",
                (cost["bitops"] or 0, number(cost["bitops"] if r["kind"] != "float" else None)),
                (cost["macs"], number(cost["macs"])),
                cost["weight_bytes"],
                exported["bytes"] if exported else "-",
                percent(exported["agreement"]) if exported else "-",
                kept,
            )
        )
    head = ("model", "search-val", "test", "BitOps", "MACs", "weight bytes", "ONNX bytes", "ONNX agrees", "budget kept")
    css = ["win" if r["kind"] == "searched" else "" for r in data["results"]]
    return _section("Models", _table(head, rows, row_css=css))


def _blocks(result: Mapping[str, Any]) -> str:
    bits: dict[str, set[str]] = {}
    for layer in result["layers"]:
        block = next((b for b in result["blocks"] if layer["name"].startswith(b + ".")), None)
        if block and layer["counted"]:
            bits.setdefault(block, set()).add(f"w{layer['weight_bits'] or 'float'}a{layer['act_bits'] or 'float'}")
    rows = [
        (name, choice["op"], str(choice["width"]), ", ".join(sorted(bits.get(name, ()))) or "float")
        for name, choice in result["blocks"].items()
    ]
    return _table(("block", "operator", "width", "bits"), rows)


def _layer_table(result: Mapping[str, Any]) -> str:
    total = sum(layer["bitops"] for layer in result["layers"]) or 1
    rows = [
        (
            layer["name"] if layer["counted"] else f"{layer['name']} (not counted)",
            layer["kind"],
            "float" if layer["weight_bits"] is None else layer["weight_bits"],
            "float" if layer["act_bits"] is None else layer["act_bits"],
            layer["macs"],
            layer["bitops"],
            (layer["bitops"] / total, percent(layer["bitops"] / total)),
        )
        for layer in result["layers"]
    ]
    css = ["" if layer["counted"] else "dim" for layer in result["layers"]]
    head = ("layer", "kind", "weight bits", "activation bits", "MACs", "BitOps", "share")
    note = (
        "<p class=note>Select a column's head to sort by it. "
        "Layers kept float are no part of BitOps (formula bitops/1).</p>"
    )
    return note + _table(head, rows, css="sortable", row_css=css)


def _commands(data: Mapping[str, Any]) -> str:
    items = "".join(
        f"<li>{escape(c['what'])}<div class=command><code>{escape(c['command'])}</code>"
        f'<button type=button data-copy="{escape(c["command"])}">Copy</button></div></li>'
        for c in data["commands"]
    )
    return _section("Go on from here", f"<ul class=commands>{items}</ul>")


def _details(data: Mapping[str, Any]) -> str:
    parts = [
        f"<details><summary>{title}</summary><pre>{escape(json.dumps(data[key], indent=1))}</pre></details>"
        for title, key in (("Configuration", "config"), ("Environment", "environment"))
    ]
    return _section("How it was made", *parts)
