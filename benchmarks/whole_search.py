"""A whole search, ours against the same search on stock Brevitas modules, from a measured part of it.

Claim: 1,000 evaluations of ResNet-20 take at most a quarter of the time.
Floor: the float network judged as often.

    python benchmarks/whole_search.py            # ten minutes on two cores
    python benchmarks/whole_search.py --tiny     # whether it runs; no claim

The same architectures are judged in turn by each side: recalibration, then scoring, with the images of the default
settings scaled down to a part that is stated. What a searcher itself takes is measured over a whole search of functions
that cost nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from common import write_result
from networks import network, stock, supernet_of
from torch import Tensor, nn

import spos_quant as sq
from spos_quant.config import SearchConfig
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.switch import kept_weights
from spos_quant.space.search_space import Architecture
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.evaluation import recalibrate, score

EVALUATIONS = 1_000
BATCHES = {"recalibrate": 8, "score": 39}
"""Of 128 images: 1,024 for recalibration (the default), 5,000 that score."""


def parts(model: nn.Module, recalibration: list[Tensor], images: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Seconds of the two parts of an evaluation."""
    start = time.perf_counter()
    recalibrate(model, recalibration)
    middle = time.perf_counter()
    score(model, images)
    return {"recalibrate": middle - start, "score": time.perf_counter() - middle}


def sides(x: Tensor, batches: dict[str, int]) -> dict[str, Callable[[Architecture], dict[str, float]]]:
    """Functions that judge an architecture and say how long it took."""
    labels = torch.zeros(len(x), dtype=torch.long)
    recalibration, images = [x] * batches["recalibrate"], [(x, labels)] * batches["score"]
    ours, theirs, plain = supernet_of("resnet20"), supernet_of("resnet20"), network("resnet20", "float")
    stock(theirs)
    ours.to(memory_format=torch.channels_last)
    layers = [layer for layer, *_ in ours.quantized_layers()]

    def judge(supernet: Supernet, architecture: Architecture) -> dict[str, float]:
        start = time.perf_counter()
        supernet.activate(architecture)
        took = time.perf_counter() - start
        return {"activate": took, **parts(supernet, recalibration, images)}

    def mine(architecture: Architecture) -> dict[str, float]:
        with compiled_kernels(), kept_weights(layers):
            return judge(ours, architecture)

    return {
        "ours": mine,
        "stock Brevitas": lambda architecture: judge(theirs, architecture),
        "float": lambda _: parts(plain, recalibration, images),
    }


def searcher_seconds(evaluations: int) -> float:
    """What the evolution itself takes, where judging costs nothing; paths are activated, as in any search."""
    supernet = supernet_of("resnet20")
    config = SearchConfig(population=min(50, evaluations), generations=max(evaluations // 50, 1))
    layers = [layer for layer, *_ in supernet.quantized_layers()]
    start = time.perf_counter()
    sq.search(
        supernet,
        evaluate=lambda _: float(sum(layer.weight_bits or 0 for layer in layers)),
        recalibrate=None,
        bitops_budget="w3a3",
        config=config,
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="architectures that every side judges [%(default)s]")
    parser.add_argument("--tiny", action="store_true", help="whether it runs; nothing is written")
    given = parser.parse_args()
    batches, rounds = ({"recalibrate": 1, "score": 1}, 1) if given.tiny else (BATCHES, given.rounds)
    judges = sides(torch.randn(4 if given.tiny else 128, 3, 32, 32), batches)
    space = supernet_of("resnet20").space
    paths = space.sample_many(np.random.default_rng(0), rounds + 1)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in judges}
    for path in paths:  # the first round warms up
        for name, judge in judges.items():
            times[name].append(judge(path))
    rows = {
        name: {part: statistics.median(t[part] for t in took[1:]) for part in took[0]} for name, took in times.items()
    }
    own = searcher_seconds(10 if given.tiny else EVALUATIONS)
    whole = {name: EVALUATIONS * sum(row.values()) + (0 if name == "float" else own) for name, row in rows.items()}
    for name, row in rows.items():
        said = ", ".join(f"{part} {seconds:.3f} s" for part, seconds in row.items())
        print(f"{name:15} {whole[name]:9.0f} s for {EVALUATIONS:,} evaluations: {said} each")
    print(f"searcher alone  {own:9.1f} s; stock / ours {whole['stock Brevitas'] / whole['ours']:.2f}")
    if not given.tiny:
        figures = {"batches": batches, "rounds": rounds, "searcher_seconds": own, "seconds_each": rows}
        ratio = whole["stock Brevitas"] / whole["ours"]
        write_result("whole_search", {**figures, "whole_seconds": whole, "ratio": ratio, "load": os.getloadavg()[0]})


if __name__ == "__main__":
    main()
