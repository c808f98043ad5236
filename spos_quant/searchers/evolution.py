"""The evolutionary search of Single Path One-Shot NAS ([Guo2020], Algorithm 1), under budgets.

Differences from the authors' code: children are completed within the budgets by exact sampling instead of being drawn
until one fits, so that the search cannot hang under a tight budget. An axis that becomes relevant by a mutation or a
crossover is sampled anew.

With `search.first: uniform` the first population starts with the feasible uniform bit configurations, so that the
result scores no worse than any of them. With `knapsack` it alternates between optima of the additive estimate and
these; all perturbations of the reference are evaluated before it.

References:
    [Guo2020] Single Path One-Shot NAS, arXiv 1904.00420.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np

from spos_quant.searchers.additive import AdditiveEstimate
from spos_quant.searchers.base import Problem, Scored, searchers
from spos_quant.space.search_space import Architecture
from spos_quant.space.uniform import uniform_architectures
from spos_quant.streams import Stream, generator

_TRIES = 20
"""Draws per child before a random architecture takes its place."""
_SHARES = tuple(1 - i / 20 for i in range(11))
"""Shares of the budget range for which the first population contains an optimum."""


@searchers.register("evolution")
class Evolution:
    """A first population (`search.first`), then generations of crossovers and mutations of the best results so far."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.results: list[Scored] = []
        self.seen: set[Architecture] = set()
        self.estimate = AdditiveEstimate(problem) if problem.config.first == "knapsack" else None
        self.generation = -1 if self.estimate and self.estimate.architectures else 0

    @property
    def planned(self) -> int:
        """The size of all generations, plus the perturbations if the first population needs them."""
        config = self.problem.config
        return config.population * config.generations + (len(self.estimate.architectures) if self.estimate else 0)

    def ask(self) -> list[Architecture]:
        """The next generation; empty after the last one or if no feasible architecture is left."""
        config = self.problem.config
        if self.estimate is not None and self.generation < 0:
            return list(self.estimate.architectures)
        if self.generation >= config.generations:
            return []
        rng = generator(Stream.EVOLUTION, self.problem.seed, self.generation)
        asked: list[Architecture] = []
        if self.generation == 0:
            asked = [a for a in dict.fromkeys(self._initial_candidates()) if a not in self.seen][: config.population]
            self.seen.update(asked)
        elif self.results:
            parents = self._parents()
            self._add(asked, config.crossover, lambda: self._crossover(parents, rng))
            self._add(asked, config.mutation, lambda: self._mutate(parents, rng))
        self._add_random(asked, config.population - len(asked), rng)
        # Sorted neighbours share their first blocks (`PrefixCache`); generation 0 keeps its initial candidates first.
        return sorted(asked) if self.generation else asked

    def tell(self, results: Sequence[Scored]) -> None:
        """Takes the results of the last generation."""
        if self.estimate is not None and self.generation < 0:
            self.estimate.learn(results)
        self.results += results
        self.seen.update(scored.architecture for scored in results)
        self.generation += 1

    def _initial_candidates(self) -> list[Architecture]:
        """The candidates that the first population starts with; random ones fill it up."""
        if self.problem.config.first == "random":
            return []
        optima = [] if self.estimate is None else self.estimate.at_shares(_SHARES)
        alternating = zip_longest(optima, self._uniform_baselines())
        return [candidate for pair in alternating for candidate in pair if candidate is not None]

    def _uniform_baselines(self) -> list[Architecture]:
        """The feasible uniform bit configurations, by descending bits."""
        baselines = list(uniform_architectures(self.problem.space).values())[::-1]
        kept: list[bool] = self.problem.sampler.keeps(baselines).tolist() if baselines else []
        return [baseline for baseline, within in zip(baselines, kept, strict=True) if within]

    def _parents(self) -> list[Architecture]:
        best = sorted(self.results, key=self.problem.objective.rank)
        return [scored.architecture for scored in best[: self.problem.config.parents]]

    def _add(self, asked: list[Architecture], count: int, make: Callable[[], Architecture | None]) -> None:
        room = min(count, self.problem.config.population - len(asked))
        for _ in range(room):
            for _ in range(_TRIES):
                child = make()
                if child is not None and child not in self.seen:
                    self.seen.add(child)
                    asked.append(child)
                    break

    def _add_random(self, asked: list[Architecture], count: int, rng: np.random.Generator) -> None:
        append_random_unseen(self.problem, self.seen, asked, count, rng)

    def _crossover(self, parents: list[Architecture], rng: np.random.Generator) -> Architecture | None:
        """A child that takes every axis from one of two parents, uniform over all such feasible children."""
        first, second = (parents[i] for i in rng.integers(len(parents), size=2))
        allowed: dict[int, list[int]] = {}
        for parent in (first, second):
            for axis, matters in enumerate(self.problem.space.relevant(parent)):
                if matters and parent[axis] not in allowed.setdefault(axis, []):
                    allowed[axis].append(parent[axis])
        return self.problem.sampler.complete(allowed, rng)

    def _mutate(self, parents: list[Architecture], rng: np.random.Generator) -> Architecture | None:
        """A copy of a parent with some axes resampled, uniform over all such feasible copies."""
        parent = parents[int(rng.integers(len(parents)))]
        resampled = rng.random(len(parent)) < self.problem.config.mutation_prob
        kept = self.problem.space.relevant(parent)
        allowed = {a: [parent[a]] for a in range(len(parent)) if kept[a] and not resampled[a]}
        return self.problem.sampler.complete(allowed, rng)


def append_random_unseen(
    problem: Problem, seen: set[Architecture], asked: list[Architecture], count: int, rng: np.random.Generator
) -> None:
    """Appends up to `count` random feasible architectures not asked before; fewer if they are hard to find."""
    for _ in range(_TRIES):
        if count <= 0:
            return
        for architecture in problem.sampler.sample(rng, count):
            if architecture not in seen:
                seen.add(architecture)
                asked.append(architecture)
                count -= 1
