"""The plan of `spos-quant plan` for two ranks on this machine against two ranks that train here.

    python benchmarks/plan_check.py

Each rank computes on one thread. Device speed is measured in both processes at the same time, because processes that
share memory bandwidth are slower than one alone; so is the bandwidth of the all-reduce, over loopback. The plan uses
these figures of rank 0. Rank 0 times the steps of a real training. Then the paper's job is planned with the speed that
its training time implies.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import write_result

from spos_quant.backbones.build import build, space_of
from spos_quant.data import load_data
from spos_quant.stages.open_run import spec_with_settings
from spos_quant.stages.plan import Assumed, Measured, estimate, measure
from spos_quant.stages.run import Run
from spos_quant.train.devices import make_fabric
from spos_quant.train.loop import Training, fit
from spos_quant.train.paths import make_sampler

IMAGES_OF_IMAGENET = 1_281_167
GPUS_OF_THE_PAPER = 8
DAYS_OF_THE_PAPER = {"supernet": 12, "search": 1, "retrain": 16}
"""GPU days from the paper's table of search cost, quoted from memory; for the search an upper bound."""
_TURNS = 12


def rank(out: str, batch: int) -> None:
    """Runs one of two ranks: times the device, all-reduces of the supernet's size, then training steps."""
    spec = spec_with_settings("digits-mixed", [f"train.batch_size={batch}", "train.devices=2", "train.warmup_epochs=0"])
    config = spec.train.model_copy(update={"iterations": _TURNS})
    space = space_of(spec)
    run, model = Run(Path(), spec, "digits", 0), build(space)
    measured = measure(run, "cpu")  # torchrun starts both ranks together
    fabric = make_fabric(config, "cpu")
    tensor = torch.zeros(sum(p.numel() for p in model.parameters()))
    exchanges = []
    for _ in range(_TURNS):
        fabric.barrier()
        start = time.perf_counter()
        torch.distributed.all_reduce(tensor)
        exchanges.append(time.perf_counter() - start)
    data = load_data("digits", input=(1, 8, 8), classes=10, seed=0)
    draw, times = make_sampler(config, run.table, 0).draw, []

    def paths(step: int) -> Any:
        times.append(time.perf_counter())
        return draw(step)

    fit(fabric, model, Training(data, config, 0, "check", False), paths=paths)
    if fabric.global_rank == 0:
        steps = [b - a for a, b in pairwise(times[1:])]
        took = {"exchange": statistics.median(exchanges[2:]), "step": statistics.median(steps), "least": min(steps)}
        Path(out).write_text(json.dumps({"measured": asdict(measured), "took": took}))


def two_ranks(batch: int) -> tuple[Measured, dict[str, float]]:
    """Rank 0's device measurement, and medians over the training's steps in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "times.json")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--rank", out, "--batch", str(batch)], env=env, check=True, stderr=subprocess.DEVNULL)
        found = json.loads(Path(out).read_text())
        return Measured(**found["measured"]), found["took"]


def check(batch: int) -> dict[str, Any]:
    """The planned and the measured step time of two ranks."""
    torch.set_num_threads(1)
    spec = spec_with_settings("digits-mixed", [f"train.batch_size={batch}"])
    alone = measure(Run(Path(), spec, "fake", 0), "cpu")
    measured, took = two_ranks(batch)
    exchanged = measured.weight_bytes + measured.buffer_bytes
    bandwidth = (
        measured.weight_bytes / took["exchange"]
    )  # in a ring of two ranks each sends as many bytes as the tensor has
    row = estimate(spec, measured, Assumed(bandwidth), 1797, 2)
    planned = row["step"]["compute_seconds"] + row["step"]["communication_seconds"]
    return {
        "batch": batch,
        "measured_alone": asdict(alone),
        "measured": asdict(measured),
        "bandwidth": bandwidth,
        "exchanged_bytes": exchanged,
        "planned": {**row["step"], "step_seconds": planned},
        "took": took,
        "ratio": planned / took["step"],
    }


def papers_job() -> dict[str, Any]:
    """The paper's search of operators on its own 8 GPUs, at the speed that its supernet training implies."""
    spec = spec_with_settings("shufflenetv2-blocks", [])
    measured = measure(Run(Path(), spec, "fake", 0), "cpu")
    images = spec.train.steps(1) * spec.train.batch_size
    flops = 2 * 3 * measured.macs * images / (DAYS_OF_THE_PAPER["supernet"] * 86_400)
    other_device = measured.__class__(**{**asdict(measured), "step_seconds": 0.0, "ddp_seconds": 0.0})
    rows = [
        estimate(spec, other_device, Assumed(10e9, flops), IMAGES_OF_IMAGENET, n)
        for n in (1, GPUS_OF_THE_PAPER, 64, 1000)
    ]
    return {"implied_flops": flops, "measured": asdict(measured), "paper_gpu_days": DAYS_OF_THE_PAPER, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        return rank(given.rank, given.batch)
    result = {"two_ranks": check(given.batch), "paper": papers_job()}
    print(json.dumps(result, indent=1))
    write_result("plan_check", result)


if __name__ == "__main__":
    main()
