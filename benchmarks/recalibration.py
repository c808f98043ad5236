"""The number of images that recalibration needs: rankings of candidates with few images against many.

    python benchmarks/recalibration.py RUN --n 30 --work DIR      # resumable
    python benchmarks/recalibration.py RUN --n 3 --amounts 32,64 --images 64 --work DIR --tiny

RUN is a run directory with a trained supernet. Architectures are sampled within a band of BitOps, so that the ranking
does not only reflect the number of bits. Each is recalibrated once, with the largest amount, and scored at every amount
on the way: statistics are cumulative averages over batches, so intermediate ones equal those of a smaller amount.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import drawn_in_band, write_result

from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.switch import cached_weights
from spos_quant.searchers.rank_correlation import kendall, regret, spearman
from spos_quant.space.search_space import Architecture
from spos_quant.stages.models import load_supernet
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.run import Run
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.batches import FixedBatches
from spos_quant.train.devices import device_of
from spos_quant.train.evaluation import Score, batch_norms, score

AMOUNTS = "256,512,1024,2048,4096,8192,25600"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=30, help="number of architectures [%(default)s]")
    parser.add_argument(
        "--budget", default="w3a3", help="BitOps budget; architectures cost 80 to 100 %% of it [%(default)s]"
    )
    parser.add_argument("--amounts", default=AMOUNTS, help="numbers of training images [%(default)s]")
    parser.add_argument("--images", type=int, help="images of search-val for scoring [all]")
    parser.add_argument("--batch", type=int, default=128, help="batch size [%(default)s]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, required=True, help="folder of the scores")
    parser.add_argument("--tiny", action="store_true", help="smoke test; nothing is written as a result")
    given = parser.parse_args()
    run = open_existing(str(given.run))
    # A smaller data set is used whole.
    amounts = sorted({min(int(text), len(run.data.train)) for text in given.amounts.split(",")})
    rows = list(measured(run, given, amounts))
    table = [against(rows, amounts, amount) for amount in amounts]
    for row in table:
        print(*(f"{key} {value}" for key, value in row.items()), sep=", ")
    if not given.tiny:
        settings = {"space": run.spec.name, "n": given.n, "budget": given.budget, "scored": len(validation(run, given))}
        write_result("recalibration", {**settings, "batch": given.batch, "table": table, "rows": rows})


def validation(run: Run, given: argparse.Namespace) -> FixedBatches:
    """The images for scoring."""
    return FixedBatches(run.data, "search-val", images=given.images, batch_size=given.batch, seed=run.seed)


def measured(run: Run, given: argparse.Namespace, amounts: list[int]) -> Iterator[dict[str, Any]]:
    """One row per architecture with its scores by amount; reuses scores stored by earlier commands."""
    supernet = load_supernet(run).to(device_of(given.device)).to(memory_format=torch.channels_last)
    training = FixedBatches(run.data, "train", images=amounts[-1], batch_size=given.batch, seed=run.seed)
    given.work.mkdir(parents=True, exist_ok=True)
    for architecture in drawn_in_band(run, given.budget, given.n):
        path = given.work / f"{run.space.encode(architecture).replace(',', '-')}.json"
        if not path.exists():
            scores = by_amount(supernet, architecture, training, validation(run, given), amounts)
            path.write_text(json.dumps({str(amount): [s.top1, s.loss] for amount, s in scores.items()}))
            print(run.space.encode(architecture), *(f"{s.top1:.4f}" for s in scores.values()), flush=True)
        yield {"architecture": run.space.encode(architecture), "scores": json.loads(path.read_text())}


@torch.no_grad()
def by_amount(
    supernet: Supernet, architecture: Architecture, training: FixedBatches, scored: FixedBatches, amounts: list[int]
) -> dict[int, Score]:
    """The scores of an architecture after recalibration with each amount of images."""
    supernet.activate(architecture)
    supernet.eval()
    norms = batch_norms(supernet)
    device = next(supernet.parameters()).device
    found: dict[int, Score] = {}
    seen = 0
    with compiled_kernels(device=str(device)), cached_weights(layer for layer, *_ in supernet.quantized_layers()):
        for number, (x, _) in enumerate(training, 1):
            for norm in norms:
                norm.training, norm.momentum = True, 1 / number
            supernet(x.to(device))
            seen += len(x)
            for norm in norms:
                norm.training = False
            if seen in amounts:
                found[seen] = score(supernet, scored)
    return found


def against(rows: list[dict[str, Any]], amounts: list[int], amount: int) -> dict[str, Any]:
    """Agreement of the ranking with an amount with that of the largest amount."""
    few, many = (np.array([row["scores"][str(a)][0] for row in rows]) for a in (amount, amounts[-1]))
    return {
        "images": amount,
        "kendall": kendall(few, many),
        "spearman": spearman(few, many),
        "regret": regret(few, many, 1),
        "mean_difference": float(np.abs(few - many).mean()),
    }


if __name__ == "__main__":
    main()
