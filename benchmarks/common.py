"""What every benchmark script writes: its figures with the environment, under `benchmarks/results/`."""

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
    """Writes `figures` and the environment that they were measured in; returns the path."""
    path = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    value = {"benchmark": name, "environment": environment() | {"gpu": gpu, "commit": commit()}, **figures}
    path.write_text(json.dumps(value, indent=1) + "\n")
    return path


def commit() -> str:
    """The commit that is checked out."""
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return said.stdout.strip()


def several(workers: int, call: Callable[[Job], Made], jobs: Sequence[Job]) -> Iterator[Made]:
    """What a call makes of each job, as they are done: in this process, or in several."""
    if not workers:
        yield from map(call, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(call, job) for job in jobs]):
            yield done.result()


def drawn_in_band(run: Run, budget: str, n: int) -> list[Architecture]:
    """So many architectures between four fifths of a budget of BitOps and all of it, the same ones every time."""
    limit = parse_budget(budget, "bitops", run.table)
    return FeasibleSampler(run.table, [replace(limit, low=limit.limit * 4 // 5)]).sample(np.random.default_rng(0), n)
