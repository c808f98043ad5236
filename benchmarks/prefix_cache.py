"""Savings of the prefix cache, which keeps activations that candidates share (`search.prefix_mb`).

    python benchmarks/prefix_cache.py       # minutes
    python benchmarks/prefix_cache.py --tiny

The evolution proposes a thousand architectures of ResNet-20, as in a search within the BitOps of w3a3. Scores are
synthetic: every layer contributes a loss increase of its own that quarters with each bit, so the search converges. The
script counts the multiply-adds that remain with an unlimited cache of all candidates' activations (`everything`), and
with a cache of the last candidate's activations behind every layer (`one path`). Then candidates of three generations
are evaluated alternately without a cache and with a cache behind every block, on one thread.
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
"""The generations whose candidates are evaluated."""
Path = list[tuple[int | None, int | None]]
"""Weight and activation bits of every layer, in the order in which they run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="smoke test; nothing is written")
    given = parser.parse_args()
    space = load_space(SPACE)
    proposed = generations(space)
    proposed_paths = [[path(space, a) for a in generation] for generation in proposed]
    macs = np.array([layer.shapes[0].macs for layer in space.layers], dtype=float)
    before = np.concatenate([[0.0], np.cumsum(macs)]) / macs.sum()  # share of the layers in front of each
    paths = [p for generation in proposed_paths for p in generation]
    figures = {"everything": everything(paths, before), "one path": one_path(proposed_paths, before)}
    for name, share in figures.items():
        print(f"{name:11} {share:.2f} of the multiply-adds are left")
    seconds = evaluation_seconds(
        [a for number in GENERATIONS for a in proposed[number][: 2 if given.tiny else None]], given.tiny
    )
    ratio = seconds["kept"] / seconds["not kept"]
    print(f"{ratio:.2f} of the time is left")
    if not given.tiny:
        settings = {"space": SPACE, "budget": BUDGET, "evaluations": len(paths), "left": figures, "judged": GENERATIONS}
        write_result("prefix_cache", {**settings, "seconds": seconds, "ratio": ratio, "load": os.getloadavg()[0]})


def evaluation_seconds(architectures: list[Architecture], tiny: bool) -> dict[str, float]:
    """Seconds to evaluate all candidates, with and without the cache."""
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
    """The architectures that a search proposes, by generation."""
    table = CostTable(space)
    problem = Problem(space, FeasibleSampler(table, [parse_budget(BUDGET, "bitops", table)]), CONFIG, seed=0)
    degradations = np.random.default_rng(0).lognormal(size=(len(space.layers), 2))
    searcher, found = Evolution(problem), []
    while asked := searcher.ask():
        found.append(asked)
        searcher.tell([Scored(a, score(path(space, a), degradations), None, 0) for a in asked])
    return found


def path(space: SearchSpace, architecture: Architecture) -> Path:
    return [(place.weight.value(architecture), place.act.value(architecture)) for place in space.layers]


def score(bits: Path, degradations: Floats) -> float:
    """The negative sum of the layers' loss increases; that of a float layer is 0."""
    shares = np.array([[0.0 if b is None else 4.0**-b for b in layer] for layer in bits])
    return -float((shares * degradations).sum())


def everything(paths: list[Path], before: Floats) -> float:
    """The mean share of multiply-adds that remains with a cache of all previous prefixes."""
    kept: set[tuple[object, ...]] = set()
    left = []
    for bits in paths:
        prefixes = [tuple(bits[:n]) for n in range(len(bits) + 1)]
        left.append(1 - before[max(n for n, prefix in enumerate(prefixes) if not n or prefix in kept)])
        kept.update(prefixes)
    return float(np.mean(left))


def one_path(proposed: list[list[Path]], before: Floats) -> float:
    """The same with a cache of only the last candidate's activations, with each generation sorted."""
    ordered = [bits for generation in proposed for bits in sorted(generation, key=str)]
    left = [1.0]
    for last, bits in pairwise(ordered):
        shared = next((n for n, (a, b) in enumerate(zip(last, bits, strict=True)) if a != b), len(bits))
        left.append(1 - before[shared])
    return float(np.mean(left))


if __name__ == "__main__":
    main()
