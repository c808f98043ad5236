"""The head of the page: title, verdict, key figures, missing steps, and the table of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spos_quant.cost.metrics import column_metrics
from spos_quant.report.costs import cost_cell, cost_head
from spos_quant.report.describe import bits_span
from spos_quant.report.facts import (
    Data,
    Result,
    cost_of,
    early_end,
    ended_early,
    full_precision,
    is_retrained,
    keeps_budget,
    leading,
    metric_of,
    ordered,
    steps,
    top1,
)
from spos_quant.report.markup import Markup, command_line, element, head_cell, join, number_cell, section, table
from spos_quant.report.text import (
    NONE,
    TIMES,
    cost,
    count,
    file_size,
    half_interval,
    known,
    percent,
    space_size,
    unit,
)
from spos_quant.report.verdict import remarks, verdict

SHOWN_STEPS = 3
"""The number of missing steps that are shown unfolded."""


def header(data: Data) -> Markup:
    """The title, the search space and the verdict."""
    space = data["space"]
    shape = f" {TIMES} ".join(str(n) for n in space["input"])
    facts = (
        f"backbone {space['backbone']}",
        f"{space_size(space['size'])} architectures",
        f"input {shape}",
        f"{space['classes']:,} classes",
        f"{data.get('evaluated') or 0:,} evaluated",
    )
    sentences = remarks(data)
    return element(
        "header",
        element("p.brand", "spos-quant report"),
        element("h1", space["name"]),
        element("ul.facts", *(element("li", fact) for fact in facts)),
        element("p.verdict", _unbroken(verdict(data))),
        element("ul.remarks", *(element("li", _unbroken(text)) for text in sentences)) if sentences else None,
    )


def _unbroken(sentence: str) -> str:
    """A sentence with non-breaking spaces before percent signs."""
    return sentence.replace(" %", "\u00a0%")


def tiles(data: Data) -> Markup | None:
    """The key figures of the leading result; None if there is none."""
    result = leading(data)
    if result is None:
        return None
    found = [_accuracy_tile(result), _cost_tile(data, result), *_bits_tiles(result)]
    found += [_weights_tile(result), *_file_tiles(result)]
    items = [
        element("div.tile", element("dt", name), element("dd", value, element("small", note)))
        for name, value, note in found
    ]
    return element("dl.tiles", *items, attributes={"aria-label": f"{result['key']} in numbers"})


def _accuracy_tile(result: Result) -> tuple[str, str, str]:
    for split, name, where in (("test", "Test top-1", ""), ("search_val", "Search-val top-1", "retrained, ")):
        if known(top1(result, split)):
            n = result[split].get("n")
            return name, percent(top1(result, split)), f"{where}{n:,} images" if n else where.rstrip(", ")
    return "Supernet top-1", percent(result.get("supernet_top1")), "search-val, not retrained"


def _cost_tile(data: Data, result: Result) -> tuple[str, str, str]:
    metric = metric_of(data, result)
    limit = (result.get("budget") or {}).get(metric)
    note = "no budget in this metric" if limit is None else f"of {cost(metric, limit)} allowed"
    return unit(metric)[:1].upper() + unit(metric)[1:], cost(metric, cost_of(result, metric)), note


def _bits_tiles(result: Result) -> list[tuple[str, str, str]]:
    weights, inputs = bits_span(result, "weight_bits"), bits_span(result, "act_bits")
    if not weights and not inputs:
        return []
    layers = result["layers"]
    kept = sum(layer["weight_bits"] is None for layer in layers)
    note = f"in {len(layers) - kept} layers" + (f"; {kept} kept float" if kept else "")
    return [("Bits of weights / inputs", f"{weights or 'float'} / {inputs or 'float'}", note)]


def _weights_tile(result: Result) -> tuple[str, str, str]:
    size, params = cost_of(result, "weight_bytes"), cost_of(result, "params")
    note = ""
    if size and params:
        ratio = 4 * params / size
        note = f"{count(params)} parameters" + (f", {ratio:.1f}{TIMES} smaller than in float32" if ratio > 1.05 else "")
    return "Weights", file_size(size), note


def _file_tiles(result: Result) -> list[tuple[str, str, str]]:
    files = result.get("export") or ()
    if not files:
        return []
    file = files[0]
    note = f"{percent(file.get('agreement'))} agreement with the model"
    return [("ONNX file", file_size(file.get("bytes")), note if known(file.get("agreement")) else file["format"])]


def missing(data: Data) -> Markup | None:
    """What the run lacks, each with the command that makes it; None if nothing is missing."""
    todo = steps(data)
    if not todo:
        return None
    items = [element("li", element("span", step.what), command_line(step.command)) for step in todo]
    now, later = items[:SHOWN_STEPS], items[SHOWN_STEPS:]
    more = element("details", element("summary", f"and {len(later)} more"), element("ul.commands", *later))
    children = (element("ul.commands", *now), more if later else None)
    return element("section.missing", element("h2", "Still to do"), *children, attributes={"id": "todo"})


def models(data: Data) -> Markup:
    """The table of all results."""
    if not data.get("results"):
        inside = element("p.empty", "There is no result yet; a search or a retraining makes one.")
        return section("models", "Models", inside)
    full = full_precision(data)
    head = [
        head_cell("Model"),
        head_cell("In supernet", number=True, hint="Top-1 in the supernet on search-val, before retraining"),
        head_cell(
            "Search-val", number=True, hint="Top-1 of the retrained model on the split that the search scores on"
        ),
        head_cell("Test", number=True, hint="Top-1 of the retrained model on images that no choice used"),
        *map(cost_head, column_metrics(full_precision=full)),
        head_cell("ONNX", number=True, hint="Bytes of the exported file"),
        head_cell(
            "Agreement", number=True, hint="Share of images for which the file and the model predict the same class"
        ),
        head_cell("Budget kept"),
    ]
    lead = leading(data)
    rows = [
        _model_row(result, full=full, leads=result is lead, early=early_end(result) if ended_early(result) else None)
        for result in ordered(data)
    ]
    note = element(
        "p.note",
        "± is half the 95 % interval (Wilson), which depends only on accuracy and number of images. Search-val was "
        "used to choose models; the test split was not.",
    )
    return section("models", "Models", table(head, rows, label="Models side by side", css=".sortable"), note)


def _model_row(result: Result, *, full: bool, leads: bool, early: str | None) -> Markup:
    kind = result["kind"]
    name = element(
        "th",
        element("span.key", result["key"]),
        element(f"span.kind.{kind if kind in ('searched', 'uniform', 'float') else 'given'}", kind),
        element("div.early", f"search {early}") if early else None,
        attributes={"scope": "row"},
    )
    cells = [
        _share_cell(result.get("supernet_top1"), None),
        _share_cell(top1(result, "search_val"), result.get("search_val"), pending=not is_retrained(result)),
        _share_cell(top1(result, "test"), result.get("test"), css=".strong"),
        *(cost_cell(name, cost_of(result, name)) for name in column_metrics(full_precision=full)),
        *_export_cells(result),
        _kept_cell(result),
    ]
    return element("tr.leads" if leads else "tr", name, *cells)


def _titled(shown: str, title: str) -> Markup:
    return element("span", shown, attributes={"title": title if shown != NONE else None})


def _share_cell(
    value: float | None, scored: Mapping[str, Any] | None, *, css: str = "", pending: bool = False
) -> Markup:
    if value is None or not known(value):
        return number_cell(element("span.quiet", "not retrained" if pending else NONE), None)
    spread = None
    if scored and scored.get("n"):
        spread = element("span.spread", f" ± {100 * half_interval(value, scored['n']):.1f}")
    return number_cell(join((percent(value), spread)), value, css=css)


def _export_cells(result: Result) -> tuple[Markup, Markup]:
    files = result.get("export") or ()
    if not files:
        dash = element("span.quiet", NONE)
        return number_cell(dash, None), number_cell(dash, None)
    sizes = [
        element("div", file_size(f.get("bytes")), attributes={"title": f"{f['format']}: {f.get('path', '')}"})
        for f in files
    ]
    agreements = []
    for file in files:
        difference = file.get("max_abs_diff")
        title = f"{file['format']}: outputs differ by at most {difference:.2g}" if known(difference) else file["format"]
        agreements.append(element("div", percent(file.get("agreement")), attributes={"title": title}))
    return (
        number_cell(join(sizes), files[0].get("bytes")),
        number_cell(join(agreements), files[0].get("agreement")),
    )


def _kept_cell(result: Result) -> Markup:
    kept, budget = keeps_budget(result), result.get("budget") or {}
    if kept is None:
        return element("td", element("span.quiet", "not measured" if budget else NONE))
    used = max((cost_of(result, m) or 0) / limit for m, limit in budget.items() if limit)
    if kept:
        return element("td", element("span.good", "✓ yes"), element("span.spread", f" {_whole(used)} used"))
    return element("td", element("span.bad", "✗ no"), element("span.spread", f" {_whole(used)} of it"))


def _whole(share: float) -> str:
    """Whole percent; two decimals if rounding would put the share on the wrong side of 100 %."""
    rounded = round(100 * share)
    if (rounded >= 100) != (share >= 1) or (rounded == 100 and share > 1):
        return f"{100 * share:.2f} %"
    return f"{rounded} %"
