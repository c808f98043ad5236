"""Sensitivity: what is given up when one axis alone leaves the reference architecture, the most expensive, for one candidate.

Conditional axes are part of it. An operator takes the most expensive candidates of the axes that it brings along. An axis that
the reference has no use for leaves from a start of its own: the most expensive architecture that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np

from spos_quant.cost.budget import parse_budget
from spos_quant.cost.feasible import argmax_cost
from spos_quant.cost.knapsack import Losses, optima
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError
from spos_quant.space.search_space import Architecture, SearchSpace
from spos_quant.space.tree import Axis

FORMAT = "spos-quant/sensitivity/1"
ESTIMATES = ("measured", "gradient")
BITS_AXES = ("bits", "weight_bits", "act_bits")
"""Kinds of axes that gradients know."""
_WORST = 10.0
"""A loss that is not finite counts as so many times the largest that is."""


def reference_metric(space: SearchSpace) -> str:
    """The metric in which the reference is the most expensive: BitOps, or MACs in a full-precision space."""
    return "macs" if space.spec.full_precision else "bitops"


def check_gradient(space: SearchSpace) -> None:
    """Raises `ConfigError` where an axis has no gradient estimate, so that no sum over the axes can be told."""
    axis = _beyond_gradients(space)
    if axis is not None:
        raise ConfigError(
            f"axis {axis.name!r} of space {space.name!r} has no gradient estimate: gradients know bits only; take the "
            "measured one (search.estimate=measured)"
        )


def has_gradient(space: SearchSpace) -> bool:
    """Whether every axis has a gradient estimate."""
    return _beyond_gradients(space) is None


def _beyond_gradients(space: SearchSpace) -> Axis | None:
    return next((axis for axis in space.axes if axis.kind not in BITS_AXES), None)


@dataclass(frozen=True)
class Perturbation:
    """One axis alone leaves an architecture for another candidate."""

    axis: int
    candidate: int
    start: Architecture
    """The reference, or the most expensive architecture that has a use for the axis."""
    architecture: Architecture


class Perturbations:
    """All perturbations of a space.

    Args:
        table: The costs of the space.

    Attributes:
        reference: The most expensive architecture.
        all: Every candidate of every axis but that of its start, in order of axes and candidates.
    """

    def __init__(self, table: CostTable) -> None:
        self.table = table
        self.metric = reference_metric(table.space)
        self.reference = argmax_cost(table, self.metric)
        self.all = tuple(
            Perturbation(axis, candidate, start, self._leave(start, axis, candidate))
            for axis, owner in enumerate(table.space.axes)
            for start in [self._start(axis)]
            for candidate in range(len(owner.candidates))
            if candidate != start[axis]
        )

    @property
    def architectures(self) -> list[Architecture]:
        """Everything that must be evaluated, each once: the reference, further starts, the perturbations."""
        starts = dict.fromkeys([self.reference, *(d.start for d in self.all)])
        return list(dict.fromkeys([*starts, *(d.architecture for d in self.all)]))

    def _fixed(self, start: Architecture) -> dict[int, list[int]]:
        kept = self.table.space.relevant(start)
        return {axis: [candidate] for axis, candidate in enumerate(start) if kept[axis]}

    def _start(self, axis: int) -> Architecture:
        space, reference = self.table.space, self.reference
        if space.relevant(reference)[axis]:
            return reference
        fixed = self._fixed(reference)
        needing = [
            argmax_cost(
                self.table,
                self.metric,
                allowed={**fixed, **{other: sorted(some) for other, some in use}},
            )
            for use in space.axes[axis].uses
        ]
        return max(needing, key=lambda a: self.table.total(a, self.metric))

    def _leave(self, start: Architecture, axis: int, candidate: int) -> Architecture:
        allowed = {**self._fixed(start), axis: [candidate]}
        return argmax_cost(self.table, self.metric, allowed=allowed)


@dataclass(frozen=True)
class Loss:
    """What a perturbation gives up; negative where it gains."""

    perturbation: Perturbation
    loss: float | None
    """Mean cross-entropy in nats; None where only a score is known."""
    score: float | None
    """Top-1 in [0, 1], or what the user's function gave; None where only a loss is estimated."""

    @property
    def degradation(self) -> float:
        """The loss where it is known, else the score."""
        value = self.score if self.loss is None else self.loss
        assert value is not None
        return value


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivities of a space.

    Attributes:
        estimate: `measured`, one evaluation per candidate, or `gradient`, from gradients alone.
        reference: The most expensive architecture.
        rows: What each perturbation gives up, in order of axes and candidates.
    """

    estimate: str
    reference: Architecture
    rows: tuple[Loss, ...]

    def losses(self, space: SearchSpace) -> Losses:
        """Per axis what each candidate adds to the loss, 0 for the candidate that the reference or start has."""
        finite = [abs(row.degradation) for row in self.rows if isfinite(row.degradation)]
        worst = _WORST * max(finite, default=1.0)
        losses = [np.zeros(len(axis.candidates)) for axis in space.axes]
        for row in self.rows:
            value = row.degradation if isfinite(row.degradation) else worst
            losses[row.perturbation.axis][row.perturbation.candidate] = value
        return losses

    def optima(self, table: CostTable, *, count: int = 1, **budgets: str | float) -> list[Architecture]:
        """The architectures that give up least by the sum of these rows, the best first: the exact optimum.

        Args:
            table: The costs of the space: `supernet.table`.
            count: How many.
            **budgets: `bitops_budget`, `weight_bytes_budget` and so on, such as "w4a8".

        Raises:
            BudgetError: a budget that cannot be read or kept.
            ConfigError: an axis without an estimate.
            TypeError: a keyword that does not end in `_budget`.
        """
        for name in budgets:
            if not name.endswith("_budget"):
                raise TypeError(f"optima() got an unexpected keyword {name!r}; budgets end in _budget")
        if self.estimate == "gradient":
            check_gradient(table.space)
        limits = [parse_budget(text, name.removesuffix("_budget"), table) for name, text in budgets.items()]
        return optima(table, self.losses(table.space), limits, count=count)

    def to_json(self, table: CostTable) -> dict[str, Any]:
        """Plain values: what is stored in a run and what a report draws."""
        space = table.space
        metric = reference_metric(space)
        return {
            "format": FORMAT,
            "space": space.name,
            "estimate": self.estimate,
            "metric": metric,
            "reference": space.encode(self.reference),
            "rows": [_row(table, metric, row) for row in self.rows],
        }


def from_json(raw: Mapping[str, Any], table: CostTable) -> Sensitivity:
    """The sensitivities that `to_json` wrote of this space."""
    perturbations = Perturbations(table)
    names = {(row["axis"], row["architecture"]): row for row in raw["rows"]}
    rows = []
    for perturbation in perturbations.all:
        key = table.space.axes[perturbation.axis].name, table.space.encode(perturbation.architecture)
        if key in names:
            # Neither is known where the estimate was not finite, which JSON cannot say.
            loss, score = names[key]["loss"], names[key]["score"]
            rows.append(Loss(perturbation, inf if loss is None and score is None else loss, score))
    return Sensitivity(raw["estimate"], perturbations.reference, tuple(rows))


def _row(table: CostTable, metric: str, row: Loss) -> dict[str, Any]:
    perturbation, space = row.perturbation, table.space
    axis = space.axes[perturbation.axis]

    def value(index: int) -> Any:
        candidate = axis.candidates[index]
        return list(candidate) if isinstance(candidate, tuple) else candidate

    return {
        "axis": axis.name,
        "kind": axis.kind,
        "candidate": value(perturbation.candidate),
        "from": value(perturbation.start[perturbation.axis]),
        "architecture": space.encode(perturbation.architecture),
        "loss": _plain(row.loss),
        "score": _plain(row.score),
        "saved": table.total(perturbation.start, metric) - table.total(perturbation.architecture, metric),
    }


def _plain(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and isfinite(value) else None


def measured(
    perturbations: Perturbations, evaluations: Mapping[Architecture, tuple[float, float | None]]
) -> Sensitivity:
    """Sensitivities from evaluations.

    Args:
        perturbations: Those of the space.
        evaluations: Score and, where it is known, loss of every one of `perturbations.architectures`.
    """
    rows = []
    for perturbation in perturbations.all:
        (before, loss_before), (after, loss_after) = (
            evaluations[perturbation.start],
            evaluations[perturbation.architecture],
        )
        known = loss_before is not None and loss_after is not None
        loss = loss_after - loss_before if known else None  # type: ignore[operator]
        rows.append(Loss(perturbation, loss, before - after))
    return Sensitivity("measured", perturbations.reference, tuple(rows))
