"""A whole search against the same search on stock Brevitas modules, extrapolated from a measured part.

Claim: 1,000 evaluations of ResNet-20 take at most a quarter of the time, with integer sums (`search.int8`) if the
processor has VNNI.
Lower bound: as many evaluations of the float network.

    python benchmarks/whole_search.py            # ten minutes on two cores
    python benchmarks/whole_search.py --tiny     # smoke test

All sides alternately evaluate the same architectures: recalibration, then scoring, with the numbers of images in
`BATCHES`. The searcher's own time is measured over a whole search with an evaluation that takes no time.
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
from spos_quant.quant.integers import integers_available
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.switch import cached_weights, fused_norms
from spos_quant.space.search_space import Architecture
from spos_quant.supernet.network import layers_with_following_norm
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.allocation import keep_freed_memory
from spos_quant.train.evaluation import recalibrate, score

EVALUATIONS = 1_000
BATCHES = {"recalibrate": 8, "score": 39}
"""Batches of 128 images: 1,024 images for recalibration (the default) and about 5,000 for scoring."""


Evaluate = Callable[[Architecture], dict[str, float]]


def parts(model: nn.Module, recalibration: list[Tensor], images: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Seconds of recalibration and scoring."""
    start = time.perf_counter()
    recalibrate(model, recalibration)
    middle = time.perf_counter()
    score(model, images)
    return {"recalibrate": middle - start, "score": time.perf_counter() - middle}


def our_evaluator(
    supernet: Supernet, recalibration: list[Tensor], images: list[tuple[Tensor, Tensor]], *, int8: bool
) -> Evaluate:
    """A function that evaluates an architecture as a search does and returns the seconds of each part."""
    supernet.to(memory_format=torch.channels_last)
    layers = [layer for layer, *_ in supernet.quantized_layers()]
    pairs = list(layers_with_following_norm(supernet.body)) if int8 else []

    def evaluate(architecture: Architecture) -> dict[str, float]:
        with compiled_kernels(), cached_weights(layers, integers=int8):
            start = time.perf_counter()
            supernet.activate(architecture)
            ready = time.perf_counter()
            recalibrate(supernet, recalibration)
            middle = time.perf_counter()
            with fused_norms(pairs):
                score(supernet, images)
            end = time.perf_counter()
        return {"activate": ready - start, "recalibrate": middle - ready, "score": end - middle}

    return evaluate


def sides(x: Tensor, batches: dict[str, int]) -> dict[str, Evaluate]:
    """Functions that evaluate an architecture and return the seconds of each part, by side."""
    labels = torch.zeros(len(x), dtype=torch.long)
    recalibration, images = [x] * batches["recalibrate"], [(x, labels)] * batches["score"]
    brevitas, plain = supernet_of("resnet20"), network("resnet20", "float")
    stock(brevitas)

    def evaluate_stock(architecture: Architecture) -> dict[str, float]:
        start = time.perf_counter()
        brevitas.activate(architecture)
        took = time.perf_counter() - start
        return {"activate": took, **parts(brevitas, recalibration, images)}

    made = {"ours": our_evaluator(supernet_of("resnet20"), recalibration, images, int8=False)}
    if integers_available():
        made["ours, int8"] = our_evaluator(supernet_of("resnet20"), recalibration, images, int8=True)
    return {**made, "stock Brevitas": evaluate_stock, "float": lambda _: parts(plain, recalibration, images)}


def searcher_seconds(evaluations: int) -> float:
    """Seconds of the evolution itself: a search with an evaluation that only activates the path."""
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
    parser.add_argument("--rounds", type=int, default=5, help="architectures that every side evaluates [%(default)s]")
    parser.add_argument("--tiny", action="store_true", help="smoke test; nothing is written")
    given = parser.parse_args()
    batches, rounds = ({"recalibrate": 1, "score": 1}, 1) if given.tiny else (BATCHES, given.rounds)
    keep_freed_memory()  # as in a search, for all sides
    evaluators = sides(torch.randn(4 if given.tiny else 128, 3, 32, 32), batches)
    space = supernet_of("resnet20").space
    paths = space.sample_many(np.random.default_rng(0), rounds + 1)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in evaluators}
    for path in paths:  # the first round warms up
        for name, evaluate in evaluators.items():
            times[name].append(evaluate(path))
    rows = {
        name: {part: statistics.median(t[part] for t in took[1:]) for part in took[0]} for name, took in times.items()
    }
    own = searcher_seconds(10 if given.tiny else EVALUATIONS)
    whole = {name: EVALUATIONS * sum(row.values()) + (0 if name == "float" else own) for name, row in rows.items()}
    for name, row in rows.items():
        parts_text = ", ".join(f"{part} {seconds:.3f} s" for part, seconds in row.items())
        print(f"{name:15} {whole[name]:9.0f} s for {EVALUATIONS:,} evaluations: {parts_text} each")
    ratios = {name: whole["stock Brevitas"] / whole[name] for name in whole if name.startswith("ours")}
    print(
        f"searcher alone  {own:9.1f} s; stock / " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    )
    if not given.tiny:
        figures = {"batches": batches, "rounds": rounds, "searcher_seconds": own, "seconds_each": rows}
        write_result("whole_search", {**figures, "whole_seconds": whole, "ratios": ratios, "load": os.getloadavg()[0]})


if __name__ == "__main__":
    main()
