"""Fixtures of the benchmarks: timing against a baseline, and the results of a session."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from common import RESULTS, commit, write_result

from spos_quant.train.allocation import keep_freed_memory

ROUNDS = 9
_ROWS = pytest.StashKey[dict[str, list[dict[str, Any]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--device cuda`, which times networks on a GPU and writes `results/MODULE-cuda.json`."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where networks run [%(default)s]")


@pytest.fixture(autouse=True, scope="session")
def freed_memory_stays() -> None:
    """Keeps freed memory, as trainings and searches on a CPU do, for subjects and baselines."""
    keep_freed_memory()


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """The device of the networks. Benchmarks without this fixture run on the CPU only."""
    return str(request.config.getoption("--device"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects benchmarks that cannot run on the given device."""
    if config.getoption("--device") != "cpu":
        items[:] = [item for item in items if "device" in getattr(item, "fixturenames", ())]


@pytest.fixture
def tiny(request: pytest.FixtureRequest) -> bool:
    """Whether this is a smoke test (`--benchmark-disable`)."""
    return bool(request.config.getoption("--benchmark-disable"))


@pytest.fixture
def against(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., float]:
    """Times a subject with pytest-benchmark, and its baseline before each round, so that both see the same load.

    On a GPU every call is synchronized. `against(subject, baseline, what, target)` returns the ratio of the medians and
    records it in `extra_info` and in the module's results.
    """

    def measure(
        subject: Callable[[], Any], baseline: Callable[[], Any], what: str, target: float | None = None
    ) -> float:
        times: list[float] = []
        subject, baseline = synchronized(subject), synchronized(baseline)

        def before() -> None:
            start = time.perf_counter()
            baseline()
            times.append(time.perf_counter() - start)

        subject()
        benchmark.pedantic(subject, setup=before, rounds=ROUNDS, warmup_rounds=1)
        if benchmark.stats is None:  # --benchmark-disable: each ran once
            return float("nan")
        base = statistics.median(times[1:])
        ratio = benchmark.stats.stats.median / base
        spread = (benchmark.stats.stats.q3 - benchmark.stats.stats.q1) / base
        figures = {"ratio": round(ratio, 3), "spread": round(spread, 3), "baseline": what, "target": target}
        _keep(request, benchmark, figures)
        return float(ratio)

    return measure


def synchronized(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call followed by a synchronization of the GPU, if there is one."""
    if not torch.cuda.is_available():
        return call

    def made() -> None:
        call()
        torch.cuda.synchronize()

    return made


@pytest.fixture
def seconds(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Times a subject without a baseline, against a target in seconds."""

    def measure(subject: Callable[[], Any], target: float | None = None) -> None:
        benchmark.pedantic(subject, rounds=5, warmup_rounds=1)
        if benchmark.stats is not None:
            figures = {"seconds": round(benchmark.stats.stats.median, 4), "target": target}
            _keep(request, benchmark, figures)

    return measure


def _keep(request: pytest.FixtureRequest, benchmark: Any, figures: dict[str, Any]) -> None:
    benchmark.extra_info |= figures
    rows = request.config.stash.setdefault(_ROWS, {})
    context = {"commit": commit(), "load_average": round(os.getloadavg()[0], 1), "threads": torch.get_num_threads()}
    where = request.config.getoption("--device")
    module = request.module.__name__ + ("" if where == "cpu" else f"-{where}")
    rows.setdefault(module, []).append({"name": benchmark.name, **figures, **context})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes `results/MODULE.json`; keeps the rows that this session did not measure."""
    for module, rows in session.config.stash.get(_ROWS, {}).items():
        path = RESULTS / f"{module}.json"
        before = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
        merged = {row["name"]: row for row in (*before, *rows)}
        write_result(module, {"rows": list(merged.values())})
