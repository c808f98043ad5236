"""Random search, the baseline that every strategy must beat."""

from __future__ import annotations

from collections.abc import Sequence

from spos_quant.searchers.base import Problem, Scored, searchers
from spos_quant.searchers.evolution import append_random_unseen
from spos_quant.space.search_space import Architecture
from spos_quant.streams import Stream, generator


@searchers.register("random")
class RandomSearch:
    """As many architectures as the evolution asks for, sampled uniformly from the feasible ones."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.generation = 0
        self.seen: set[Architecture] = set()

    @property
    def planned(self) -> int:
        """The size of all generations."""
        return self.problem.config.population * self.problem.config.generations

    def ask(self) -> list[Architecture]:
        """The next population; empty after the last one or if no feasible architecture is left."""
        asked: list[Architecture] = []
        if self.generation < self.problem.config.generations:
            rng = generator(Stream.RANDOM_SEARCH, self.problem.seed, self.generation)
            append_random_unseen(self.problem, self.seen, asked, self.problem.config.population, rng)
        return asked

    def tell(self, results: Sequence[Scored]) -> None:
        """Counts the generation; the scores have no effect."""
        self.seen.update(scored.architecture for scored in results)
        self.generation += 1
