"""What keeping the activations that candidates share saves a search (`search.prefix_mb`).

    python benchmarks/prefix_cache.py       # minutes
    python benchmarks/prefix_cache.py --tiny

A thousand architectures of ResNet-20 are asked for by the evolution, as in a search within the BitOps of w3a3. Scores
are made up: every layer gives up a sum of its own that quarters with each bit, so that the search converges. CountingProgram
are the multiply-adds that are left where all activations of all candidates are kept (`everything`), and where those of
the last one are, behind every layer (`one path`). Then candidates of three generations are judged, each by an evaluator
that keeps nothing and by one that keeps what is behind every block, in turn, on one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from common import write_result
from networks import supernet_of

from spos_quant.backbones.build import load_space
from spos_quant.config import SearchConfig
from spos_quant.cost.budget import parse_budget
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable
from spos_quant.searchers.base import Problem, Scored
from spos_quant.searchers.evaluators import SupernetEvaluator
from spos_quant.searchers.evolution import Evolution
from spos_quant.space.search_space import Architecture, SearchSpace
from spos_quant.train.allocation import keep_freed_memory

SPACE, BUDGET = "resnet20-mixed", "w3a3"
Floats = npt.NDArray[np.float64]
CONFIG = SearchConfig(population=50, generations=20, first="random")
GENERATIONS = (1, 8, 16)
"""Whose candidates are judged."""
Path = list[tuple[int | None, int | None]]
"""Weight and activation bits of every layer, in the order in which they run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="whether it runs; nothing is written")
    given = parser.parse_args()
    space = load_space(SPACE)
    proposed = generations(space)
    asked = [[path(space, a) for a in generation] for generation in proposed]
    macs = np.array([layer.shapes[0].macs for layer in space.layers], dtype=float)
    before = np.concatenate([[0.0], np.cumsum(macs)]) / macs.sum()  # share of the layers in front of each
    paths = [p for generation in asked for p in generation]
    figures = {"everything": everything(paths, before), "one path": one_path(asked, before)}
    for name, share in figures.items():
        print(f"{name:11} {share:.2f} of the multiply-adds are left")
    seconds = judged([a for number in GENERATIONS for a in proposed[number][: 2 if given.tiny else None]], given.tiny)
    ratio = seconds["kept"] / seconds["not kept"]
    print(f"{ratio:.2f} of the time is left")
    if not given.tiny:
        told = {"space": SPACE, "budget": BUDGET, "evaluations": len(paths), "left": figures, "judged": GENERATIONS}
        write_result("prefix_cache", {**told, "seconds": seconds, "ratio": ratio, "load": os.getloadavg()[0]})


def judged(architectures: list[Architecture], tiny: bool) -> dict[str, float]:
    """Seconds of all these candidates, where activations are kept and where they are not."""
    torch.set_num_threads(1)
    keep_freed_memory()
    images = [(torch.randn(4 if tiny else 128, 3, 32, 32), torch.zeros(4 if tiny else 128, dtype=torch.long))] * 2
    evaluators = {
        name: SupernetEvaluator(
            supernet_of("resnet20"), images, images, compiled=not tiny, channels_last=True, prefix_bytes=limit
        )
        for name, limit in (("not kept", 0), ("kept", 2**30))
    }
    seconds = dict.fromkeys(evaluators, 0.0)
    for architecture in architectures:
        for name, evaluate in evaluators.items():
            start = time.perf_counter()
            list(evaluate([architecture]))
            seconds[name] += time.perf_counter() - start
    return seconds


def generations(space: SearchSpace) -> list[list[Architecture]]:
    """What a search asks for, generation by generation."""
    table = CostTable(space)
    problem = Problem(space, FeasibleSampler(table, [parse_budget(BUDGET, "bitops", table)]), CONFIG, seed=0)
    degradation = np.random.default_rng(0).lognormal(size=(len(space.layers), 2))
    searcher, found = Evolution(problem), []
    while asked := searcher.ask():
        found.append(asked)
        searcher.tell([Scored(a, score(path(space, a), degradation), None, 0) for a in asked])
    return found


def path(space: SearchSpace, architecture: Architecture) -> Path:
    return [(place.weight.value(architecture), place.act.value(architecture)) for place in space.layers]


def score(bits: Path, degradation: Floats) -> float:
    """Minus what every layer gives up; a float one gives up nothing."""
    shares = np.array([[0.0 if b is None else 4.0**-b for b in layer] for layer in bits])
    return -float((shares * degradation).sum())


def everything(paths: list[Path], before: Floats) -> float:
    """What is left to compute where all prefixes so far are kept."""
    kept: set[tuple[object, ...]] = set()
    left = []
    for bits in paths:
        prefixes = [tuple(bits[:n]) for n in range(len(bits) + 1)]
        left.append(1 - before[max(n for n, prefix in enumerate(prefixes) if not n or prefix in kept)])
        kept.update(prefixes)
    return float(np.mean(left))


def one_path(asked: list[list[Path]], before: Floats) -> float:
    """What is left where only the last candidate's activations are kept, and each generation is sorted."""
    ordered = [bits for generation in asked for bits in sorted(generation, key=str)]
    left = [1.0]
    for last, bits in pairwise(ordered):
        shared = next((n for n, (a, b) in enumerate(zip(last, bits, strict=True)) if a != b), len(bits))
        left.append(1 - before[shared])
    return float(np.mean(left))


if __name__ == "__main__":
    main()
