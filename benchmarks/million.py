"""Times opening, resuming and reporting a run with a million evaluations.

    python benchmarks/million.py --count 1000000

Runs a small search and fills its log with synthetic evaluations of other architectures. Then times opening the log, the
search with all evaluations known and its results deleted, the finished search, and the report, in CPU and wall-clock
seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import write_result

from spos_quant.cli import run as command
from spos_quant.searchers.evaluation_log import EvaluationLog
from spos_quant.stages.evaluator import open_log
from spos_quant.stages.open_run import open_existing

BUDGET = "2.2M"
SETTINGS = [
    *("--set", "train.iterations=4", "--set", "search.population=20", "--set", "search.generations=3"),
    *("--set", "search.crossover=8", "--set", "search.mutation=8", "--set", "search.recalibration_images=64"),
]
_PART = 50_000


def fill(log: EvaluationLog, count: int) -> None:
    """Adds synthetic evaluations of random architectures until the log has `count`."""
    rng, space = np.random.default_rng(0), log.space
    log._run("BEGIN")
    while (missing := count - len(log)) > 0:
        rows = []
        for one in space.sample_many(rng, min(missing, _PART)):
            text = ",".join(map(str, one))
            score, loss = float(rng.integers(287)) / 287, float(rng.random() * 3)
            rows.append((log.settings, text, score, loss, log._checksum(text, score, loss)))
        log._db.executemany(
            "INSERT OR IGNORE INTO evaluations (settings, architecture, score, loss, checksum) VALUES (?, ?, ?, ?, ?)",
            rows,
        )
    log._run("COMMIT")


@contextlib.contextmanager
def timed(name: str, times: dict[str, dict[str, float]]) -> Iterator[None]:
    """Records CPU and wall-clock seconds."""
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    times[name] = {"cpu": round(time.process_time() - cpu, 2), "clock": round(time.perf_counter() - clock, 2)}
    print(name, times[name], flush=True)


def quiet(*arguments: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        if status := command(list(arguments)):
            raise SystemExit(status)


def measure(count: int) -> dict[str, object]:
    """Measures the times in the working directory."""
    times: dict[str, dict[str, float]] = {}
    quiet("search", "digits-mixed", "--out", "run", "--bitops-budget", BUDGET, *SETTINGS)
    run = open_existing("run")
    with open_log(run) as log:
        fill(log, count)
    with timed("open", times), open_log(run) as log:
        assert len(log) == count
    (result,) = [r for r in run.results() if r.searched]
    proposed = result.search()["evaluations"]
    shutil.rmtree(result.folder)
    with timed("resume", times):
        quiet("search", "run", "--bitops-budget", BUDGET)
    with timed("finished", times):
        quiet("search", "run", "--bitops-budget", BUDGET)
    with timed("report", times):
        quiet("report", "run")
    names = ("evaluations.sqlite", "report.html", "report.json", "evaluations.csv")
    sizes = {name: Path("run", name).stat().st_size for name in names}
    return {"evaluations": count, "asked": proposed, "seconds": times, "bytes": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    given = parser.parse_args()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        result = measure(given.count)
        os.chdir(here)
    write_result("million", result)


if __name__ == "__main__":
    main()
