"""The sections on the networks: bits, width and operator of every layer with its share of the cost, and all costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spos_quant.report.describe import grouped
from spos_quant.report.facts import Data, Result, full_precision, leading, ordered
from spos_quant.report.markup import Markup, element, head_cell, join, number_cell, section, table
from spos_quant.report.text import NONE, TIMES, bits, count, exact, percent

Layer = Mapping[str, Any]


def network_section(data: Data) -> Markup:
    """Bits, width and operator of each layer."""
    full = full_precision(data)
    title = "Operator and width of each block" if full else "Bits, width and operator of each layer"
    note = f"Bars show the share of {'MACs' if full else 'BitOps'} in the whole network."
    if not full:
        note = f"A stronger colour means more bits. {note}"
    return _per_result(data, "network", title, note, _network)


def layers_section(data: Data) -> Markup:
    """Cost of each layer."""
    title = "Cost of each layer"
    note = "Select a column head to sort."
    if not full_precision(data):
        note += " Grey rows are layers that the space keeps float; BitOps do not count them (formula bitops/1)."
    return _per_result(data, "layers", title, note, _costs)


def _per_result(data: Data, name: str, title: str, note: str, make: Callable[[Result, str], Markup]) -> Markup:
    """One panel per result. The script shows one at a time; without scripts all are shown."""
    results = [result for result in ordered(data) if result.get("layers")]
    if not results:
        return section(name, title, element("p.empty", "There is no network yet; a search finds one."))
    first = leading(data) or results[0]
    metric = "macs" if full_precision(data) else "bitops"
    panels = [
        element(
            "div.panel",
            element("h3", result["key"]),
            make(result, metric),
            attributes={"data-result": result["key"]},
        )
        for result in results
    ]
    chooser = _chooser(results, first, title) if len(results) > 1 else None
    return section(name, title, element("p.note", note), chooser, *panels)


def _chooser(results: Sequence[Result], first: Result, title: str) -> Markup:
    options = [
        element("option", r["key"], attributes={"value": r["key"], "selected": r["key"] == first["key"]})
        for r in results
    ]
    select = element("select.chooser", *options, attributes={"aria-label": f"Network whose {title.lower()} are shown"})
    return element("div.tools", element("label", "Network ", select), attributes={"hidden": True})


def _network(result: Result, metric: str) -> Markup:
    total = sum(layer[metric] or 0 for layer in result["layers"]) or 1
    shares = [(layer[metric] or 0) / total for layer in result["layers"]]
    largest = max(shares, default=0.0) or 1.0
    head = [
        head_cell("Block"),
        head_cell("Operator"),
        head_cell("Width", number=True),
        head_cell("Layer"),
        *([] if metric == "macs" else [_bits_head("Weight bits"), _bits_head("Input bits")]),
        head_cell(f"Share of {'MACs' if metric == 'macs' else 'BitOps'}"),
    ]
    bodies = []
    for block, layers in grouped(result):
        choice = (result.get("blocks") or {}).get(block) if block is not None else None
        cells = [join(_layer_cells(layer, block, metric, total, largest)) for layer in layers]
        quiet = [_is_quiet(layer, metric) for layer in layers]
        if not layers:
            cells, quiet = (
                [element("td.quiet", "no layer of its own", attributes={"colspan": 2 if metric == "macs" else 4})],
                [False],
            )
        cells[0] = join((_block_cells(block, choice, len(cells)), cells[0]))
        rows = [_narrow_head(block, choice, full=metric == "macs")] if choice is not None else []
        rows += [element("tr.uncounted" if q else "tr", row) for q, row in zip(quiet, cells, strict=True)]
        bodies.append(element("tbody", *rows))
    return table(head, bodies, label=f"Layers of {result['key']}", css=".network")


def _block_cells(block: str | None, choice: Mapping[str, Any] | None, rows: int) -> Markup:
    span = {"rowspan": rows if rows > 1 else None}
    if choice is None:
        return element("td.quiet.place", NONE if block is None else block, attributes={**span, "colspan": 3})
    return join(
        (
            element("th.place", block, attributes={**span, "scope": "rowgroup"}),
            element("td.place", choice["op"], attributes=span),
            element("td.number.place", f"{choice['width']:g}{TIMES}", attributes=span),
        )
    )


def _narrow_head(block: str | None, choice: Mapping[str, Any], *, full: bool) -> Markup:
    """The block's row above its layers, which replaces three columns on narrow screens."""
    choice_text = element("span.quiet", f"{choice['op']}, {choice['width']:g}{TIMES}")
    return element(
        "tr.narrow",
        element("th", block, " ", choice_text, attributes={"scope": "rowgroup", "colspan": 2 if full else 4}),
    )


def _is_quiet(layer: Layer, metric: str) -> bool:
    return metric == "bitops" and not layer["counted"]


def _layer_cells(layer: Layer, block: str | None, metric: str, total: int, largest: float) -> tuple[Markup, ...]:
    quiet = _is_quiet(layer, metric)
    share = (layer[metric] or 0) / total
    if quiet:
        bar = element("span.quiet", "not counted")
    else:
        width = {"style": f"width:{100 * share / largest:.1f}%"}
        bar = join((element("span.track", element("span.fill", attributes=width)), element("span", percent(share))))
    return (
        # The block's name is in the first column.
        element("td.layer", layer["name"].removeprefix(f"{block}."), attributes={"title": layer["name"]}),
        *([] if metric == "macs" else [_heat(layer["weight_bits"]), _heat(layer["act_bits"])]),
        element("td.bar", element("div", bar)),
    )


def _bits_head(title: str) -> Markup:
    return element("th.bits", title, attributes={"scope": "col"})


def _heat(value: int | None) -> Markup:
    """A cell with the number of bits, coloured more strongly the more bits there are."""
    if value is None:
        return element("td.bits.float", "float")
    return element("td.bits", value, attributes={"style": f"--heat-share:{_heat_percent(value)}%"})


def _heat_percent(value: int) -> int:
    # Linear in bits up to 8; above that the colour no longer changes.
    return round(100 * min(value, 8) / 8)


def _costs(result: Result, metric: str) -> Markup:
    layers, full = result["layers"], metric == "macs"
    total = sum(layer[metric] or 0 for layer in layers) or 1
    head = [
        head_cell("Layer"),
        head_cell("Kind"),
        *([] if full else [head_cell("Weight bits", number=True), head_cell("Input bits", number=True)]),
        head_cell("MACs", number=True),
        *([] if full else [head_cell("BitOps", number=True)]),
        head_cell("Share", number=True),
    ]
    rows = [_cost_row(layer, metric, total) for layer in layers]
    cost = result["cost"]
    foot = element(
        "tr",
        # A cell of its own for the name, which stays visible when a narrow screen scrolls the numbers.
        element("th", f"All {len(layers)} layers", attributes={"scope": "row"}),
        element("td", attributes={"colspan": 1 if full else 3}),
        element("td.number", exact(cost.get("macs"))),
        *([] if full else [element("td.number", exact(cost.get("bitops")))]),
        element("td.number", percent(1.0)),
    )
    return join((table(head, rows, label=f"Cost of {result['key']}", css=".sortable", foot=foot), _totals(cost, full)))


def _cost_row(layer: Layer, metric: str, total: int) -> Markup:
    quiet, full = _is_quiet(layer, metric), metric == "macs"
    name = join((layer["name"], element("span.mark", "not counted") if quiet else None))
    share = (layer[metric] or 0) / total
    bitops = layer["bitops"]
    widths = ("weight_bits", "act_bits")
    return element(
        "tr.uncounted" if quiet else "tr",
        element("td.layer", name, attributes={"data-value": layer["name"]}),
        element("td", layer["kind"]),
        *([] if full else [number_cell(bits(layer[k]), 32 if layer[k] is None else layer[k]) for k in widths]),
        number_cell(exact(layer["macs"]), layer["macs"]),
        *([] if full else [number_cell(NONE if quiet else exact(bitops), None if quiet else bitops)]),
        number_cell(NONE if quiet else percent(share), None if quiet else share),
    )


def _totals(cost: Mapping[str, Any], full: bool) -> Markup:
    parts = [f"{exact(cost.get('params'))} parameters", f"{exact(cost.get('weight_bytes'))} bytes of weights"]
    if not full:
        total, outside = cost.get("bitops_total"), cost.get("float_macs")
        parts += [
            f"{count(total)} BitOps if layers kept float count as 32 {TIMES} 32",
            f"{count(outside)} MACs in layers kept float",
        ]
    return element("p.note", "; ".join(parts), ".")
