"""What every benchmark script writes: its figures with the environment, under `benchmarks/results/`."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spos_quant.stages.run import environment

ROUNDS = 9
RESULTS = Path(__file__).parent / "results"


def write_result(name: str, figures: dict[str, Any]) -> Path:
    """Writes `figures` and the environment that they were measured in; returns the path."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    path = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    value = {"benchmark": name, "environment": environment() | {"commit": commit.stdout.strip()}, **figures}
    path.write_text(json.dumps(value, indent=1) + "\n")
    return path


def beside(benchmark: Any, subject: Callable[[], Any], baseline: Callable[[], Any], what: str) -> float:
    """Times a subject with pytest-benchmark and its baseline in the round before, so that both see the same machine.

    `extra_info` gets the median of the baseline and the ratio of medians, which is also returned.
    """
    times: list[float] = []

    def before() -> None:
        start = time.perf_counter()
        baseline()
        times.append(time.perf_counter() - start)

    subject()
    benchmark.pedantic(subject, setup=before, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is None:  # --benchmark-disable: everything ran once
        return float("nan")
    ratio = benchmark.stats.stats.median / statistics.median(times[1:])
    benchmark.extra_info |= {what: statistics.median(times[1:]), "ratio": round(ratio, 3)}
    print(f"\n{benchmark.name}: {ratio:.2f} x {what}")
    return float(ratio)
