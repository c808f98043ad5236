"""Search problems without a model: a space, budgets and a score that is a sum over axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from spos_quant.config import SearchConfig
from spos_quant.cost.budget import parse_budget
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable
from spos_quant.searchers.base import Evaluation, Objective, Problem, Scored, searchers
from spos_quant.space.search_space import Architecture, SearchSpace

SMALL = SearchConfig(population=12, generations=6, parents=4, crossover=4, mutation=4, mutation_prob=0.2)


def problem(
    space: SearchSpace,
    *,
    seed: int = 0,
    config: SearchConfig = SMALL,
    objective: Objective | None = None,
    **budgets: str | int,
) -> Problem:
    table = CostTable(space)
    limits = [parse_budget(text, metric, table) for metric, text in budgets.items()]
    return Problem(space, FeasibleSampler(table, limits), config, seed, objective or Objective())


class Additive:
    """A score that sums one effect per candidate over the relevant axes, and a loss with many ties."""

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        rng = np.random.default_rng([99, seed])
        self.space = space
        self.effects = [rng.integers(-1000, 1000, size=len(axis.candidates)) for axis in space.axes]
        self.asked: list[Architecture] = []

    def score(self, a: Architecture) -> float:
        kept = self.space.relevant(a)
        return sum(int(e[i]) for e, i, keep in zip(self.effects, a, kept, strict=True) if keep) / 1000

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        for a in architectures:
            self.asked.append(a)
            yield Evaluation(a, self.score(a), float(sum(a) % 3))


def scored(p: Problem, function: Additive, asked: Sequence[Architecture], metric: str = "bitops") -> list[Scored]:
    costs, kept = p.sampler.table.totals(asked, metric).tolist(), p.sampler.keeps(asked).tolist()
    return [
        Scored(e.architecture, e.score, e.loss, cost, keep)
        for e, cost, keep in zip(function(asked), costs, kept, strict=True)
    ]


def generations(name: str, p: Problem, function: Additive, told: Sequence[Sequence[Scored]] = ()) -> list[list[Scored]]:
    """All generations of a searcher, which is first told the results `told` of an earlier searcher."""
    searcher = searchers[name](p)
    for generation in told:
        searcher.tell(generation)
    found = [list(generation) for generation in told]
    while asked := searcher.ask():
        found.append(scored(p, function, asked))
        searcher.tell(found[-1])
        assert sum(map(len, found)) <= searcher.planned, "asks for more than `planned`"
    assert searcher.ask() == []
    return found


def architectures(found: Sequence[Sequence[Scored]]) -> list[list[Architecture]]:
    return [[s.architecture for s in generation] for generation in found]
