"""The bench section and its CSV: bit configurations compared side by side, all retrained by one recipe."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from html import escape
from typing import Any

from spos_quant.cost.metrics import column_metrics, formula_metrics
from spos_quant.report.costs import cost_cell, cost_head
from spos_quant.report.facts import Data, full_precision
from spos_quant.report.markup import Markup, element, head_cell, join, number_cell, plot, section, table
from spos_quant.report.text import NONE, file_size, known, percent, unit

_AFTER_COSTS = (
    *("file_bytes", "format", "top1_mean", "top1_std"),
    *("search_val_top1_mean", "search_val_top1_std", "supernet_top1", "seeds", "latency_ms"),
)


def columns() -> tuple[str, ...]:
    """The columns of the CSV: among them the cost in every metric that layers decide and that has a budget."""
    costs = (name for name, metric in formula_metrics().items() if metric.budget)
    return ("bits", "key", *costs, *_AFTER_COSTS)


def bench_csv(bench: Mapping[str, Any]) -> str:
    """The rows of a bench as CSV with the columns `columns()`; unknown values are empty.

    Args:
        bench: The content of `bench.json`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns())
    writer.writerows([row[key] for key in columns()] for row in bench["rows"])
    return out.getvalue()


def bench_payload(data: Data) -> dict[str, Any] | None:
    """The data of the bench plot; None if there is no bench."""
    bench, metric = data.get("bench"), data["metric"]
    if not bench:
        return None
    rows = [row for row in bench["rows"] if row[metric]]
    return {
        "unit": unit(metric),
        "x": [row[metric] for row in rows],
        "y": [row["top1_mean"] for row in rows],
        "spread": [row["top1_std"] or 0 for row in rows],
        "name": [escape(row["bits"]) for row in rows],
        "key": [escape(row["key"]) for row in rows],
    }


def bench_section(data: Data) -> Markup | None:
    """The table and plot; None if there is no bench."""
    bench = data.get("bench")
    if not bench:
        return None
    full, times, seeds = full_precision(data), bench["latency"], len(bench["seeds"])
    head = [
        head_cell("Bits"),
        *(cost_head(name) for name in column_metrics(full_precision=full)),
        head_cell("File", number=True, hint="Bytes of the exported file"),
        head_cell("Test", number=True, hint="Mean top-1 over seeds, and their standard deviation"),
        head_cell("Search-val", number=True, hint="The same on search-val, the split that the search scores on"),
        head_cell("In supernet", number=True, hint="Supernet top-1 on search-val, if a search found the configuration"),
        head_cell("Latency", number=True, hint=f"{times['runtime']}; median of {times['rounds']} interleaved rounds"),
    ]
    models = f"Every configuration is retrained by the same recipe, {seeds} seed{'' if seeds == 1 else 's'} each"
    threads = f"{times['threads']} thread{'' if times['threads'] == 1 else 's'}"
    note = f"{models}. Latency of one image in {times['runtime']}, {threads}."
    return section(
        "bench",
        "Bench",
        element("p.note", note),
        plot("bench-plot", f"Test top-1 against {unit(data['metric'])}"),
        table(
            head, [_row(row, full=full) for row in bench["rows"]], label="Configurations side by side", css=".sortable"
        ),
    )


def _row(row: Mapping[str, Any], *, full: bool) -> Markup:
    name = element(
        "th",
        element("span.key", row["bits"]),
        element("span.spread", f" {row['key']}") if row["budget"] else None,
        attributes={"scope": "row"},
    )
    return element(
        "tr",
        name,
        *(cost_cell(name, row.get(name)) for name in column_metrics(full_precision=full)),
        number_cell(file_size(row["file_bytes"]), row["file_bytes"]),
        _share_cell(row["top1_mean"], row["top1_std"], css=".strong"),
        _share_cell(row["search_val_top1_mean"], row["search_val_top1_std"]),
        _share_cell(row["supernet_top1"], None),
        number_cell(NONE if row["latency_ms"] is None else f"{row['latency_ms']:.3g} ms", row["latency_ms"]),
    )


def _share_cell(mean: float | None, spread: float | None, *, css: str = "") -> Markup:
    if not known(mean):
        return number_cell(element("span.quiet", NONE), None)
    shown = None if spread is None else element("span.spread", f" ± {100 * spread:.1f}")
    return number_cell(join((percent(mean), shown)), mean, css=css)
