"""All evaluations of a run as columns, so that a report of millions of them takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spos_quant.cost.budget import cost_range
from spos_quant.searchers.base import Scored
from spos_quant.searchers.pareto import front, hypervolume, pareto_candidates
from spos_quant.space.tree import IntArray
from spos_quant.stages.evaluator import open_log
from spos_quant.stages.run import Run

SHOWN = 5_000
"""Above this number the page and the JSON hold a subset of the evaluations; the CSV file holds all."""


@dataclass(frozen=True)
class Evaluated:
    """The evaluations of a run's supernet, in the order of evaluation.

    Attributes:
        run: The run.
        texts: `[N]` architectures as the space encodes them.
        scores: `[N]` top-1 in the supernet on search-val.
        losses: `[N]` mean cross-entropy in nats; None if unknown.
        costs: Cost metric -> `[N]` costs, for the metrics that apply to the space.
        asked: Encoded architecture -> its earliest generation and the keys of the searches that proposed it.
    """

    run: Run
    texts: Sequence[str]
    scores: npt.NDArray[np.float64]
    losses: Sequence[float | None]
    costs: Mapping[str, IntArray]
    asked: Mapping[str, tuple[int, tuple[str, ...]]]

    def __len__(self) -> int:
        return len(self.texts)

    def front(self, metric: str) -> tuple[list[int], dict[str, Any]]:
        """Indices on the Pareto front of a metric by increasing cost, and the share of the plane that they dominate.

        The reference point of this hypervolume has chance accuracy and the cost of the most expensive architecture.
        """
        costs = self.costs[metric]
        scored = {i: self._scored(i, int(costs[i])) for i in pareto_candidates(costs, self.scores).tolist()}
        kept = front(scored.values())
        index = {one.architecture: i for i, one in scored.items()}
        cost, chance = cost_range(self.run.table, metric)[1], 1 / self.run.spec.classes
        dominated = hypervolume(kept, cost=cost, score=chance)
        return [index[one.architecture] for one in kept], {
            "hypervolume": dominated,
            "reference": {"cost": cost, "score": chance},
        }

    def _scored(self, i: int, cost: int) -> Scored:
        return Scored(self.run.space.decode(self.texts[i]), float(self.scores[i]), self.losses[i], cost)

    def row(self, i: int, metric: str) -> dict[str, Any]:
        """One evaluation as plain values, with its cost in `metric` and in all metrics."""
        text = self.texts[i]
        generation, searches = self.asked.get(text, (None, ()))
        costs = {name: int(values[i]) for name, values in self.costs.items()}
        return {
            "architecture": text,
            "describe": self.run.space.describe(self.run.space.decode(text)),
            "generation": generation,
            "cost": costs[metric],
            "score": float(self.scores[i]),
            "loss": self.losses[i],
            "searches": list(searches),
            "costs": costs,
        }

    def shown(self, always: Sequence[int]) -> list[int]:
        """Indices that the page shows: all, or `always` and `SHOWN` evenly spaced in the order of evaluation."""
        if len(self) <= SHOWN:
            return list(range(len(self)))
        spaced = np.linspace(0, len(self) - 1, SHOWN).round().astype(int).tolist()
        return sorted({*always, *spaced})

    def columns(self, metric: str, on_front: Sequence[int]) -> dict[str, Sequence[Any]]:
        """The columns of `evaluations.csv` by name."""
        unknown: tuple[None, tuple[str, ...]] = (None, ())
        asked = [self.asked.get(text, unknown) for text in self.texts]
        flags = np.zeros(len(self), dtype=int)
        flags[list(on_front)] = 1
        return {
            "architecture": self.texts,
            "generation": [generation for generation, _ in asked],
            "cost": self.costs[metric].tolist(),
            "score": self.scores.tolist(),
            "loss": self.losses,
            "on_front": flags.tolist(),
            "searches": [" ".join(keys) for _, keys in asked],
            **{name: values.tolist() for name, values in self.costs.items()},
        }


def evaluated(run: Run) -> Evaluated:
    """The evaluations of the run's supernet; empty if it was not searched."""
    texts: list[str] = []
    scores: list[float] = []
    losses: list[float | None] = []
    if run.log_path.exists() and run.supernet_path.exists():
        with open_log(run) as log:
            texts, scores, losses = log.columns()
    indices = np.fromstring(",".join(texts), dtype=np.int64, sep=",").reshape(len(texts), len(run.space.axes))
    costs = {name: run.table.totals(indices, name) for name in run.table.budget_metrics}
    return Evaluated(run, texts, np.array(scores, dtype=np.float64), losses, costs, _asked(run))


def _asked(run: Run) -> dict[str, tuple[int, tuple[str, ...]]]:
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for result in run.results():
        if result.asked_path.exists():
            asked = result.asked()
            for text, generation in zip(asked["architectures"], asked["generations"], strict=True):
                earliest, keys = found.get(text, (generation, ()))
                found[text] = (min(earliest, generation), (*keys, result.key))
    return found
