#!/usr/bin/env python3
"""Writes benchmarks/README.md: claims from the benchmarks' docstrings, figures from benchmarks/results/*.json.

python tools/make_benchmarks.py
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
PATH = BENCHMARKS / "README.md"
HEAD = """# Benchmarks

    pytest benchmarks --benchmark-only -n0                     # all benchmarks; an hour on two cores
    pytest benchmarks --benchmark-disable -n0                  # smoke test without figures; minutes
    pytest benchmarks --benchmark-only -n0 --benchmark-autosave --benchmark-compare    # this commit against the last

Every figure is a ratio to a baseline that ran in alternating rounds in the same process, or seconds if there is no
baseline. Figures are medians, with the interquartile range in parentheses. Machines are shared: *load* is the load
average during the measurement. *commit* is the commit that a row was measured at.

Accuracy of bits and searches is in [docs/results.md](../docs/results.md), behaviour under kills and faults in
[docs/reliability.md](../docs/reliability.md).
"""
SCRIPTS = {
    "large_spaces": "the largest spaces: load, count, sample, complete",
    "supernet_memory": "memory of supernets by number of widths and bit-widths",
    "whole_search": "a thousand evaluations against the same search on stock Brevitas modules",
    "int8_ranking": "candidates scored with integer sums against the exact path",
    "freed_memory": "forward passes and training steps with and without keeping freed memory",
    "recalibration": "ranking of candidates by number of recalibration images",
    "prefix_cache": "candidates that reuse the activations of the blocks shared with the previous candidate",
    "blocks": "time by number of blocks, plotted in [docs/blocks.svg](../docs/blocks.svg)",
    "latency_sum": "sums of a latency table against measured whole networks",
    "integer_parity": "integer files against the NumPy reference, on test splits",
    "int8_convolution": "8-bit convolutions of oneDNN against float ones",
    "plan_check": "the planned step time of two ranks against the measured one",
}

Row = dict[str, Any]


def main() -> None:
    """Writes the page."""
    PATH.write_text(text(), "utf-8")


def text() -> str:
    """The text of the page."""
    modules = sorted(BENCHMARKS.glob("test_*.py"))
    return "\n".join([HEAD, *(section(path) for path in modules), scripts()])


def section(path: Path) -> str:
    """The claim of a benchmark module and its measurements."""
    title, _, rest = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")
    results = [BENCHMARKS / "results" / f"{path.stem}{device}.json" for device in ("", "-cuda")]
    tables = [table(result) for result in results if result.exists()] or ["Not measured yet.\n"]
    return "\n".join([f"## {title}\n{rest}\n", *tables])


def table(result: Path) -> str:
    """The measurements on one device, as a table with the device below."""
    found = json.loads(result.read_text("utf-8"))
    where = found["environment"]
    lines = [" | ".join(cells(row)) for row in found["rows"]]
    head = "| what | measured | target | | commit | load |\n| --- | --- | --- | --- | --- | --- |\n"
    rows = "".join(f"| {line} |\n" for line in lines)
    threads = " and ".join(sorted({str(row["threads"]) for row in found["rows"]}))
    device = f"{where['cpus']} CPU cores, threads: {threads}" if where["gpu"] is None else where["gpu"]
    return f"{head}{rows}\n{device}, torch {where['packages']['torch']}.\n"


def cells(row: Row) -> list[str]:
    """One measurement as cells of the table."""
    name = row["name"].removeprefix("test_").replace("[", ": ").removesuffix("]").replace("_", " ")
    target = row["target"]
    if "ratio" in row:
        value, measured = row["ratio"], f"{row['ratio']:.2f} x {row['baseline']} ({row['spread']:.2f})"
    else:
        value, measured = row["seconds"], f"{row['seconds']:.3g} s"
    kept = "" if target is None else "kept" if value <= target else f"missed by {100 * (value / target - 1):.0f} %"
    return [name, measured, "" if target is None else f"{target:g}", kept, row["commit"], f"{row['load_average']:.1f}"]


def scripts() -> str:
    """The list of scripts, each with its result file and its main figures if it has a function in `OUTCOMES`."""
    lines = []
    for name, what in SCRIPTS.items():
        path = BENCHMARKS / "results" / f"{name}.json"
        if not path.exists():
            lines.append(f"- `python benchmarks/{name}.py`: {what}; not measured yet")
            continue
        outcome = OUTCOMES[name](json.loads(path.read_text("utf-8"))) if name in OUTCOMES else ""
        lines.append(f"- `python benchmarks/{name}.py`: {what}; `benchmarks/results/{name}.json`{outcome}")
    return "## Scripts\n\n" + "\n".join(lines) + "\n"


def whole_search(found: Row) -> str:
    """Speed-up against the target, and the shares of the time."""
    whole, each = found["whole_seconds"], found["seconds_each"]
    parts = []
    for name, ratio in found["ratios"].items():
        share = each[name]["score"] / sum(each[name].values())
        parts.append(
            f"{name}: {ratio:.2f} times as fast (target: 4), {whole[name] / whole['float']:.2f} of the float network's "
            f"time, {share:.0%} of it scoring, {found['searcher_seconds'] / whole[name]:.1%} in the searcher itself"
        )
    return f". {'; '.join(parts)}. Stock Brevitas takes {whole['stock Brevitas'] / whole['float']:.2f} of the float network's time"


def int8_ranking(found: Row) -> str:
    """Changes of the ranking by integer sums, and the time ratio."""
    return (
        f". Of {found['n']} candidates within a narrow cost band {found['changed_ranks']} change rank, by "
        f"{found['largest_change_of_rank']} at most (Kendall's tau {found['kendall_top1']:.2f}); top-1 changes by "
        f"{100 * found['mean_difference_top1']:.2f} points on average, with a standard deviation of "
        f"{100 * found['spread_top1']:.1f} points over candidates; {found['ratio']:.2f} of the exact path's time"
    )


def freed_memory(found: Row) -> str:
    """Ratios of time and memory with freed memory kept, to those without."""
    rows = (row for row in found["rows"] if row["what"] != "MB")
    times = ", ".join(f"{row['case']} {row['what']} {row['kept'] / row['given_back']:.2f}" for row in rows)
    sizes = ", ".join(
        f"{row['case']} {row['kept'] / row['given_back']:.2f}" for row in found["rows"] if row["what"] == "MB"
    )
    return f". Time with freed memory kept, relative to returned to the system: {times}; peak memory, likewise: {sizes}"


def prefix_cache(found: Row) -> str:
    """The shares of time and multiply-adds that remain with the prefix cache."""
    left = found["left"]
    return (
        f". {found['ratio']:.2f} of the time; of the multiply-adds of {found['evaluations']:,} candidates {left['one path']:.2f} "
        f"remain with a cache behind every layer, {left['everything']:.2f} with an unlimited cache"
    )


def blocks(found: Row) -> str:
    """Exponents of the growth of time with the number of blocks."""
    powers = ", ".join(f"{name} {power:.2f}" for name, power in found["powers"].items())
    return f". From {found['blocks'][0]} to {found['blocks'][-1]} blocks, exponents of the growth of time: {powers}"


def recalibration(found: Row) -> str:
    """Kendall's tau of each number of images against the largest."""
    rows = ", ".join(f"{row['images']:,} images {row['kendall']:.2f}" for row in found["table"])
    return f". Kendall's tau against the largest number: {rows}"


def integer_parity(found: Row) -> str:
    """Differing labels and logits over all test images."""
    rows = found["rows"]
    images = ", ".join(f"{n:,}" for n in sorted({row["images"] for row in rows}))
    relative = max(row["max_abs_diff"] / row["largest_logit"] for row in rows)
    return (
        f". {sum(row['other_labels'] for row in rows)} differing labels on splits of {images} images, logits differ by at most "
        f"{relative:.0e} of the largest logit"
    )


def latency_sum(found: Row) -> str:
    """Mean relative errors of the sums."""
    errors = ", ".join(f"{row['space']} {row['error']['mean']:.1%}" for row in found["rows"])
    return f". Mean relative error: {errors}"


OUTCOMES: dict[str, Callable[[Row], str]] = {
    "whole_search": whole_search,
    "int8_ranking": int8_ranking,
    "freed_memory": freed_memory,
    "recalibration": recalibration,
    "prefix_cache": prefix_cache,
    "blocks": blocks,
    "integer_parity": integer_parity,
    "latency_sum": latency_sum,
}


if __name__ == "__main__":
    main()
