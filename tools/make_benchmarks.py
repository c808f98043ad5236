#!/usr/bin/env python3
"""Writes benchmarks/README.md from the benchmarks and benchmarks/results/*.json: claim, target, measured, command.

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

Every figure is a ratio against a baseline that ran in the rounds between, in the same process, or seconds where there is
nothing to compare with; medians, with the distance of the quartiles in parentheses. Machines are shared: the load average
says how busy this one was. A row keeps the commit that it was measured at.

    pytest benchmarks --benchmark-only -n0                     # all of them; an hour on two cores
    pytest benchmarks --benchmark-disable -n0                  # whether they run; minutes, no figures
    pytest benchmarks --benchmark-only -n0 --benchmark-autosave --benchmark-compare    # this commit against the last

What bits and searches are worth is in [docs/results.md](../docs/results.md), what survives kills and faults in
[docs/reliability.md](../docs/reliability.md).
"""
SCRIPTS = {
    "large_spaces": "the largest spaces: load, count, sample, complete",
    "supernet_memory": "memory of supernets against the number of widths and bit-widths",
    "whole_search": "a thousand evaluations beside the same search on stock Brevitas modules",
    "int8_ranking": "candidates judged with sums of integers beside the exact path",
    "freed_memory": "passes and steps where freed memory is kept",
    "recalibration": "how candidates rank when few images recalibrate them",
    "prefix_cache": "candidates that start behind the blocks that they share with the one before",
    "blocks": "time against the number of blocks, drawn in [docs/blocks.svg](../docs/blocks.svg)",
    "latency_sum": "the sum of a table of latencies beside whole networks",
    "integer_parity": "files of integers beside the NumPy reference, on test splits",
    "int8_convolution": "8-bit convolutions of oneDNN beside float ones",
    "plan_check": "what a plan says of two ranks, beside two ranks",
}

Row = dict[str, Any]


def main() -> None:
    """Writes the page."""
    PATH.write_text(text(), "utf-8")


def text() -> str:
    """The page of the figures at hand."""
    modules = sorted(BENCHMARKS.glob("test_*.py"))
    return "\n".join([HEAD, *(section(path) for path in modules), scripts()])


def section(path: Path) -> str:
    """What a module claims, and what was measured."""
    title, _, rest = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")
    results = [BENCHMARKS / "results" / f"{path.stem}{device}.json" for device in ("", "-cuda")]
    tables = [table(result) for result in results if result.exists()] or ["Not measured yet.\n"]
    return "\n".join([f"## {title}\n{rest}\n", *tables])


def table(result: Path) -> str:
    """The measurements on one device, and what it is."""
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
    """Scripts whose results are tables of their own, with the outcome where it is one figure."""
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
    """How much faster, against the target, and where the time goes."""
    whole, each = found["whole_seconds"], found["seconds_each"]
    said = []
    for name, ratio in found["ratios"].items():
        share = each[name]["score"] / sum(each[name].values())
        said.append(
            f"{name}: {ratio:.2f} times as fast (target: 4), {whole[name] / whole['float']:.2f} searches of the float "
            f"network, {share:.0%} of it scoring, {found['searcher_seconds'] / whole[name]:.1%} the searcher itself"
        )
    return f". {'; '.join(said)}. Stock Brevitas takes {whole['stock Brevitas'] / whole['float']:.2f} float searches"


def int8_ranking(found: Row) -> str:
    """Whether sums of integers change what wins, and what they save."""
    return (
        f". Of {found['n']} candidates within a narrow band {found['changed_ranks']} change their rank, by "
        f"{found['largest_change_of_rank']} at most (Kendall {found['kendall_top1']:.2f}), top-1 changes by "
        f"{100 * found['mean_difference_top1']:.2f} points on average where candidates differ by "
        f"{100 * found['spread_top1']:.1f} (one deviation); {found['ratio']:.2f} of the exact path's time"
    )


def freed_memory(found: Row) -> str:
    """What keeping it saves, and costs."""
    rows = (row for row in found["rows"] if row["what"] != "MB")
    times = ", ".join(f"{row['case']} {row['what']} {row['kept'] / row['given_back']:.2f}" for row in rows)
    sizes = ", ".join(
        f"{row['case']} {row['kept'] / row['given_back']:.2f}" for row in found["rows"] if row["what"] == "MB"
    )
    return f". Time kept per time given back: {times}; largest size: {sizes}"


def prefix_cache(found: Row) -> str:
    """What is left to do."""
    left = found["left"]
    return (
        f". {found['ratio']:.2f} of the time; of the multiply-adds of {found['evaluations']:,} candidates {left['one path']:.2f} "
        f"would be left behind every layer, {left['everything']:.2f} if nothing were ever forgotten"
    )


def blocks(found: Row) -> str:
    """How time grows."""
    powers = ", ".join(f"{name} {power:.2f}" for name, power in found["powers"].items())
    return f". From {found['blocks'][0]} to {found['blocks'][-1]} blocks time grows with their number to the power of: {powers}"


def recalibration(found: Row) -> str:
    """How few images rank as many do."""
    rows = ", ".join(f"{row['images']:,} images {row['kendall']:.2f}" for row in found["table"])
    return f". Kendall's tau against the last: {rows}"


def integer_parity(found: Row) -> str:
    """Labels and logits over all test images."""
    rows = found["rows"]
    images = ", ".join(f"{n:,}" for n in sorted({row["images"] for row in rows}))
    relative = max(row["max_abs_diff"] / row["largest_logit"] for row in rows)
    return (
        f". {sum(row['other_labels'] for row in rows)} other labels on splits of {images} images, logits differ by {relative:.0e} of "
        f"the largest one at most"
    )


def latency_sum(found: Row) -> str:
    """Errors of the sums."""
    errors = ", ".join(f"{row['space']} {row['error']['mean']:.1%}" for row in found["rows"])
    return f". Off on average by: {errors}"


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
