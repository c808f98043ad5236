"""The part of the page on the bench, and its CSV: bit configurations side by side, retrained by one recipe."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from html import escape
from typing import Any

from spos_quant.report.facts import Data, full_precision
from spos_quant.report.markup import Markup, element, head_cell, join, number_cell, plot, section, table
from spos_quant.report.text import NONE, count, exact, file_size, known, percent, unit

COLUMNS = (
    *("bits", "key", "bitops", "macs", "params", "weight_bytes", "file_bytes", "format", "top1_mean", "top1_std"),
    *("search_val_top1_mean", "search_val_top1_std", "supernet_top1", "seeds", "latency_ms"),
)


def bench_csv(bench: Mapping[str, Any]) -> str:
    """The rows of a bench as a table of `COLUMNS`; a value that is not known is empty.

    Args:
        bench: What `bench.json` holds.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row[key] for key in COLUMNS] for row in bench["rows"])
    return out.getvalue()


def bench_payload(data: Data) -> dict[str, Any] | None:
    """What the plot of a bench is drawn from; None where there is none."""
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
    """Table and plot; None where nothing was benched."""
    bench = data.get("bench")
    if not bench:
        return None
    full, times, seeds = full_precision(data), bench["latency"], len(bench["seeds"])
    head = [
        head_cell("Bits"),
        *([] if full else [head_cell("BitOps", number=True)]),
        head_cell("MACs", number=True),
        head_cell("Weights", number=True, hint="Bytes at the bits of each layer"),
        head_cell("File", number=True, hint="Bytes of the exported file"),
        head_cell("Test", number=True, hint="Mean top-1 over seeds, and their standard deviation"),
        head_cell("Search-val", number=True, hint="The same on the split that the search sees"),
        head_cell("In supernet", number=True, hint="Where a search found it"),
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
        *([] if full else [_count_cell(row["bitops"])]),
        _count_cell(row["macs"]),
        number_cell(file_size(row["weight_bytes"]), row["weight_bytes"]),
        number_cell(file_size(row["file_bytes"]), row["file_bytes"]),
        _share_cell(row["top1_mean"], row["top1_std"], css=".strong"),
        _share_cell(row["search_val_top1_mean"], row["search_val_top1_std"]),
        _share_cell(row["supernet_top1"], None),
        number_cell(NONE if row["latency_ms"] is None else f"{row['latency_ms']:.3g} ms", row["latency_ms"]),
    )


def _count_cell(value: int | None) -> Markup:
    return number_cell(element("span", count(value), attributes={"title": exact(value)}), value)


def _share_cell(mean: float | None, spread: float | None, *, css: str = "") -> Markup:
    if not known(mean):
        return number_cell(element("span.quiet", NONE), None)
    shown = None if spread is None else element("span.spread", f" ± {100 * spread:.1f}")
    return number_cell(join((percent(mean), shown)), mean, css=css)
