"""Helpers of the benchmark scripts: results with their environment, parallel jobs, samples."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from spos_quant.cost.budget import parse_budget
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.space.search_space import Architecture
from spos_quant.stages.run import Run, environment

Job = TypeVar("Job")
Made = TypeVar("Made")
RESULTS = Path(__file__).parent / "results"


def write_result(name: str, figures: dict[str, Any]) -> Path:
    """Writes `figures` with the environment of the measurement; returns the path."""
    path = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    value = {"benchmark": name, "environment": environment() | {"gpu": gpu, "commit": commit()}, **figures}
    path.write_text(json.dumps(value, indent=1) + "\n")
    return path


def commit() -> str:
    """The short hash of the checked-out commit."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def several(workers: int, call: Callable[[Job], Made], jobs: Sequence[Job]) -> Iterator[Made]:
    """Yields `call(job)` of each job: in order in this process (`workers=0`), else in order of completion."""
    if not workers:
        yield from map(call, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(call, job) for job in jobs]):
            yield done.result()


def drawn_in_band(run: Run, budget: str, n: int) -> list[Architecture]:
    """Samples `n` architectures of 80 to 100 % of a BitOps budget with a fixed seed."""
    limit = parse_budget(budget, "bitops", run.table)
    return FeasibleSampler(run.table, [replace(limit, low=limit.limit * 4 // 5)]).sample(np.random.default_rng(0), n)
