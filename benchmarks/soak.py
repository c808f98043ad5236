"""Checks that memory, threads and file descriptors stay constant during an hour of training and search.

    python benchmarks/soak.py --minutes 60

Two commands run in parallel: `train` with a loader process, checkpoints and curves, and `search --workers 1`. Every few
seconds the script samples each process tree: memory (proportional set size, PSS), threads, file descriptors and number
of processes. The samples after a warm-up are compared, and plotted in docs/soak.svg.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write_result

PLOT = Path(__file__).parent.parent / "docs" / "soak.svg"
MEASURES = ("memory_mb", "threads", "descriptors", "processes")
TRAIN = [
    *("train", "digits-mixed", "--out", "long", "--set", "train.iterations=10000000", "--set", "train.data_workers=1"),
    *("--set", "train.checkpoint_steps=20", "--set", "log=csv"),
]
SHORT = ["train", "digits-mixed", "--out", "run", "--set", "train.iterations=5"]
SEARCH = [
    *("search", "run", "--bitops-budget", "60%", "--workers", "1", "--set", "search.generations=1000000"),
    *("--set", "search.recalibration_images=256"),
]


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def sample(pid: int) -> dict[str, float]:
    """The current resources of a process tree, by measure."""
    used = dict.fromkeys(MEASURES, 0.0)
    for one in tree(pid):
        with contextlib.suppress(OSError):
            folder = Path("/proc") / str(one)
            rollup = (folder / "smaps_rollup").read_text()
            used["memory_mb"] += int(rollup.split("\nPss:")[1].split()[0]) / 1024
            used["threads"] += len(list((folder / "task").iterdir()))
            used["descriptors"] += len(list((folder / "fd").iterdir()))
            used["processes"] += 1
    return used


def watch(processes: dict[str, subprocess.Popen[bytes]], minutes: float, every: float) -> dict[str, list[Any]]:
    """Samples of every process tree for some minutes: rows `[minute, memory, threads, descriptors, processes]`."""
    start, found = time.monotonic(), {name: [] for name in processes}
    while (minute := (time.monotonic() - start) / 60) < minutes:
        for name, process in processes.items():
            if process.poll() is not None:
                raise SystemExit(f"{name} ended with {process.returncode}")
            found[name].append([round(minute, 3), *(round(value, 2) for value in sample(process.pid).values())])
        time.sleep(every)
    return found


def compared(samples: list[Any], warm: float) -> dict[str, dict[str, float]]:
    """Medians of the first and last third after the warm-up, minimum and maximum, and growth per hour."""
    kept = [row for row in samples if row[0] >= warm]
    third = max(1, len(kept) // 3)
    found = {}
    for column, name in enumerate(MEASURES, 1):
        values = [row[column] for row in kept]
        first, last = statistics.median(values[:third]), statistics.median(values[-third:])
        hours = (kept[-1][0] - kept[0][0]) * 2 / 3 / 60
        found[name] = {
            "first": first,
            "last": last,
            "least": min(values),
            "most": max(values),
            "per_hour": round((last - first) / hours, 2) if hours else 0.0,
        }
    return found


def svg(samples: dict[str, list[Any]]) -> str:
    """An SVG with one plot per measure and one line per command."""
    width, height, gap, colours = 300, 130, 34, {"train": "#2a6fbb", "search": "#c4572e"}
    parts = []
    for i, name in enumerate(MEASURES):
        x0, y0 = 50 + (i % 2) * (width + 70), 30 + (i // 2) * (height + gap + 30)
        most = max(row[i + 1] for rows in samples.values() for row in rows) * 1.1
        end = max(rows[-1][0] for rows in samples.values()) or 1
        parts.append(f'<text x="{x0}" y="{y0 - 8}">{name.replace("_", " ")}</text>')
        parts.append(f'<path d="M{x0} {y0}V{y0 + height}H{x0 + width}" fill="none" stroke="#888"/>')
        parts += [f'<text x="{x0 - 6}" y="{y0 + 6}" text-anchor="end">{most:.0f}</text>']
        parts += [f'<text x="{x0 - 6}" y="{y0 + height}" text-anchor="end">0</text>']
        parts += [f'<text x="{x0 + width}" y="{y0 + height + 16}" text-anchor="end">{end:.0f} min</text>']
        for command, rows in samples.items():
            points = " ".join(
                f"{x0 + row[0] / end * width:.1f},{y0 + height - row[i + 1] / most * height:.1f}" for row in rows
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[command]}" stroke-width="1.5"/>')
    for i, (command, colour) in enumerate(colours.items()):
        parts.append(f'<text x="{50 + 90 * i}" y="376" fill="{colour}">{command}</text>')
    style = 'font-family="sans-serif" font-size="12" fill="#666"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 390" {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def spawn(arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "spos_quant", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def soak(minutes: float, every: float, warm: float) -> dict[str, Any]:
    """Runs both commands in the working directory and stops them by SIGINT."""
    if status := spawn(SHORT).wait():
        raise SystemExit(status)
    processes = {"train": spawn(TRAIN), "search": spawn([*SEARCH, "--timeout", f"{minutes + 60}m"])}
    try:
        samples = watch(processes, minutes, every)
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGINT)
    statuses = {name: process.wait() for name, process in processes.items()}
    with contextlib.closing(sqlite3.connect("run/evaluations.sqlite")) as db:
        ((evaluations,),) = db.execute("SELECT COUNT(*) FROM evaluations").fetchall()
    curves = [path.read_text().count("\n") for path in Path("long/logs").rglob("*.csv")]
    return {
        "minutes": minutes,
        "warm_up_minutes": warm,
        "statuses": statuses,
        "evaluations": evaluations,
        "logged_lines": sum(curves),
        "compared": {name: compared(rows, warm) for name, rows in samples.items()},
        "columns": ["minute", *MEASURES],
        "samples": samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--warm-up", type=float, default=2, help="minutes of warm-up, which are not compared")
    given = parser.parse_args()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        result = soak(given.minutes, given.every, given.warm_up)
        os.chdir(here)
    PLOT.write_text(svg(result["samples"]))
    for name, measures in result["compared"].items():
        print(name, {key: (value["first"], value["last"]) for key, value in measures.items()})
    write_result("soak", result)


if __name__ == "__main__":
    main()
