"""Results on stdout: a table, or one JSON object."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from spos_quant.cost.metrics import CostMetric, column_metrics, formula_metrics, metrics
from spos_quant.cost.units import duration, human
from spos_quant.progress import remark

__all__ = ["bench", "count", "emit", "layers", "models", "percent", "remark", "say", "table", "time", "verified"]


def emit(value: Any) -> None:
    """Writes one JSON value to stdout."""
    _stdout().write(json.dumps(value, indent=1) + "\n")


def say(text: str) -> None:
    """Writes a line to stdout."""
    _stdout().write(text + "\n")


def _stdout() -> TextIO:
    """Standard output, set to escape the characters (of class names, paths) that its encoding cannot represent."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return sys.stdout


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Writes a table to stdout, numbers right-aligned, without colours on any terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    made = Table(box=box.SIMPLE, title=title, title_justify="left")
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    # Piped output keeps its columns; a terminal wraps at its own width.
    width = None if sys.stdout.isatty() else 200
    # Rich would exit with status 1 if the reader closed the pipe, so it prints into a buffer.
    out = _stdout()
    page = io.TextIOWrapper(io.BytesIO(), encoding=out.encoding or "utf-8", errors="backslashreplace")
    Console(file=page, width=width, highlight=False, color_system=None, markup=False).print(made)
    page.seek(0)
    out.write(page.read())


def count(value: int | None) -> str:
    """A count with a suffix, such as `2.312M`; a dash if there is none."""
    return "-" if value is None else human(value)


def time(nanoseconds: int | None) -> str:
    """A time, such as `2.307 ms`; a dash if there is none."""
    return "-" if nanoseconds is None else duration(nanoseconds)


def percent(value: float | None) -> str:
    """A fraction in percent; a dash if there is none."""
    return "-" if value is None else f"{100 * value:.2f} %"


def layers(cost: Mapping[str, Any]) -> None:
    """Prints the cost of an architecture, layer by layer."""
    rows = [
        (
            row["name"] if row["counted"] else f"{row['name']} (not counted)",
            row["kind"],
            "float" if row["weight_bits"] is None else str(row["weight_bits"]),
            "float" if row["act_bits"] is None else str(row["act_bits"]),
            f"{row['macs']:,}",
            f"{row['bitops']:,}",
        )
        for row in cost["layers"]
    ]
    table(("layer", "kind", "w bits", "a bits", "MACs", "BitOps"), rows)
    if "notation" in cost:
        say(f"architecture  {cost['notation']}")
    bitops = cost["bitops"]
    if bitops is not None:
        say(f"BitOps        {bitops:,} = {human(bitops)} = {bitops / 2**30:.4g} Gi ({cost['formula']})")
    say(f"BitOps total  {cost['bitops_total']:,} (layers kept float as 32 x 32)")
    say(f"MACs          {cost['macs']:,} ({cost['float_macs']:,} in layers kept float)")
    for name in sorted(formula_metrics().keys() - {"bitops", "bitops_total", "macs", "float_macs"}):
        say(f"{metrics[name].label:<13} {cost[name]:,}")


def amount(metric: CostMetric, value: int | None) -> str:
    """A cost, rounded; a dash if it is unknown."""
    return "-" if value is None else metric.text(value)


def models(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the models of a run side by side."""
    table(
        ("model", "search-val", "test", *_labels(), "ONNX bytes", "agreement"),
        [
            (
                f"{row['model']} ({row['key']})" if row["model"] == "searched" else row["model"],
                percent(row["search_val_top1"]),
                percent(row["test_top1"]),
                *_costs(row),
                "-" if row["file_bytes"] is None else f"{row['file_bytes']:,}",
                percent(row["agreement"]),
            )
            for row in rows
        ],
    )


def bench(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the rows of a bench."""
    table(
        ("bits", "result", *_labels(), "file bytes", "test", "search-val", "seeds", "ms"),
        [
            (
                row["bits"],
                row["key"],
                *_costs(row),
                "-" if row["file_bytes"] is None else f"{row['file_bytes']:,}",
                _spread(row["top1_mean"], row["top1_std"]),
                _spread(row["search_val_top1_mean"], row["search_val_top1_std"]),
                str(row["seeds"]),
                "-" if row["latency_ms"] is None else f"{row['latency_ms']:.3g}",
            )
            for row in rows
        ],
    )


def _labels() -> list[str]:
    return [metric.label for metric in column_metrics().values()]


def _costs(row: Mapping[str, Any]) -> list[str]:
    """The costs of a row; large counts are rounded, bytes are not."""
    return ["-" if row[name] is None else _shown(name, row[name]) for name in column_metrics()]


def _shown(name: str, value: int) -> str:
    return f"{value:,}" if name.endswith("bytes") else metrics[name].text(value)


def _spread(mean: float, deviation: float | None) -> str:
    return percent(mean) if deviation is None else f"{100 * mean:.2f} ± {100 * deviation:.2f} %"


def verified(result: Mapping[str, Any]) -> None:
    """Prints the retrained model and every exported file, each measured from the file alone."""
    model = result["model"]
    rows = [("retrained model", percent(model["top1"]), "-", "-", "-", *_costs(model), "-")]
    rows += [
        (
            file["path"],
            percent(file["top1"]),
            percent(file["agreement"]),
            f"{file['max_abs_diff']:.2g}",
            f"{file['bytes']:,}",
            *_costs(file),
            {True: "yes", False: "NO", None: "-"}[file["budget_kept"]],
        )
        for file in result["files"]
    ]
    table(("measured", "test top-1", "agreement", "logit difference", "bytes", *_labels(), "budget kept"), rows)
    for file in result["files"]:
        parts = ", ".join(f"{name} {n:,}" for name, n in file["bytes_by_type"].items())
        say(f"bytes of {file['format']}: {parts}")


def _exact(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def ended_early(results: list[dict[str, Any]]) -> None:
    """Prints which searches the time limit ended."""
    for result in results:
        if not result["complete"]:
            remark(f"{result['key']}: the time limit ended the search early; repeat the command to resume")


def skipped_trainings(skipped: list[str], of: int) -> None:
    """Prints how many trainings were already finished."""
    if skipped:
        remark(f"{len(skipped)} of {of} trainings already finished, skipped")
