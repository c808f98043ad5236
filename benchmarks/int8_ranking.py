"""Ranking of candidates with integer convolutions (`search.int8`) against the exact float path.

    python benchmarks/int8_ranking.py RUN --n 30                    # minutes
    python benchmarks/int8_ranking.py RUN --n 3 --images 64 --recalibration 32 --tiny

RUN is a run directory with a trained supernet. Architectures are sampled within a band of BitOps, so that the ranking
does not only reflect the number of bits. Each is evaluated both ways alternately, on one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import drawn_in_band, write_result

from spos_quant.quant.integers import integers_available
from spos_quant.searchers.base import Evaluation
from spos_quant.searchers.evaluators import SupernetEvaluator
from spos_quant.searchers.rank_correlation import kendall, regret
from spos_quant.space.search_space import Architecture
from spos_quant.stages.models import load_supernet
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.run import Run
from spos_quant.train.allocation import keep_freed_memory
from spos_quant.train.batches import FixedBatches

Evaluate = Callable[[Architecture], tuple[Evaluation, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=30, help="number of architectures [%(default)s]")
    parser.add_argument(
        "--budget", default="w3a3", help="BitOps budget; architectures cost 80 to 100 %% of it [%(default)s]"
    )
    parser.add_argument("--images", type=int, help="images of search-val for scoring [all]")
    parser.add_argument(
        "--recalibration", type=int, default=1024, help="training images for recalibration [%(default)s]"
    )
    parser.add_argument("--tiny", action="store_true", help="smoke test; nothing is written as a result")
    given = parser.parse_args()
    if not integers_available():
        parser.error("this processor or this torch has no 8-bit convolutions to compare")
    torch.set_num_threads(1)
    keep_freed_memory()
    run = open_existing(str(given.run))
    found = evaluated(run, given)
    figures = compared(found)
    print(*(f"{name} {value}" for name, value in figures.items()), sep="\n")
    if not given.tiny:
        settings = {"space": run.spec.name, "n": given.n, "budget": given.budget, "recalibration": given.recalibration}
        write_result("int8_ranking", {**settings, "images": given.images, "load": os.getloadavg()[0], **figures})


def evaluators(run: Run, given: argparse.Namespace) -> dict[str, Evaluate]:
    """The float and the integer evaluator, each with its own supernet."""
    training = FixedBatches(run.data, "train", images=given.recalibration, batch_size=128, seed=run.seed)
    validation = FixedBatches(run.data, "search-val", images=given.images, batch_size=128, seed=run.seed)

    def made(int8: bool) -> Evaluate:
        evaluator = SupernetEvaluator(
            load_supernet(run), training, validation, compiled=not given.tiny, channels_last=True, int8=int8
        )

        def evaluate(architecture: Architecture) -> tuple[Evaluation, float]:
            start = time.perf_counter()
            (evaluation,) = evaluator([architecture])
            return evaluation, time.perf_counter() - start

        return evaluate

    return {"exact": made(int8=False), "int8": made(int8=True)}


def evaluated(run: Run, given: argparse.Namespace) -> dict[str, list[tuple[Evaluation, float]]]:
    """Evaluations and seconds of every architecture, by evaluator."""
    by_name = evaluators(run, given)
    found: dict[str, list[tuple[Evaluation, float]]] = {name: [] for name in by_name}
    for architecture in drawn_in_band(run, given.budget, given.n):
        for name, evaluate in by_name.items():
            found[name].append(evaluate(architecture))
    return found


def compared(found: dict[str, list[tuple[Evaluation, float]]]) -> dict[str, float]:
    """Compares scores, ranks and seconds of the two evaluators."""
    top1, loss = (
        {name: np.array([getattr(e, what) for e, _ in rows]) for name, rows in found.items()}
        for what in ("score", "loss")
    )
    ranks = {name: np.argsort(np.argsort(-values, kind="stable")) for name, values in top1.items()}
    seconds = {name: statistics.median(took for _, took in rows) for name, rows in found.items()}
    return {
        "kendall_top1": kendall(top1["exact"], top1["int8"]),
        "kendall_loss": kendall(loss["exact"], loss["int8"]),
        "regret_top1": regret(top1["int8"], top1["exact"], 1),
        "changed_ranks": int((ranks["exact"] != ranks["int8"]).sum()),
        "largest_change_of_rank": int(np.abs(ranks["exact"] - ranks["int8"]).max()),
        "mean_difference_top1": float(np.abs(top1["exact"] - top1["int8"]).mean()),
        "spread_top1": float(top1["exact"].std()),
        "seconds_exact": seconds["exact"],
        "seconds_int8": seconds["int8"],
        "ratio": seconds["int8"] / seconds["exact"],
    }


if __name__ == "__main__":
    main()
