"""Sensitivity: the loss increase if a single axis of the reference, the most expensive architecture, changes.

Axes may be conditional. If a changed operator makes other axes relevant, these take their most expensive candidates. An
axis that is irrelevant in the reference is perturbed in the most expensive architecture in which it is relevant.
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
"""Kinds of axes that have a gradient estimate."""
_WORST = 10.0
"""A loss increase that is not finite counts as this multiple of the largest finite one."""


def reference_metric(space: SearchSpace) -> str:
    """The metric in which the reference is the most expensive: BitOps, or MACs in a full-precision space."""
    return "macs" if space.spec.full_precision else "bitops"


def check_gradient(space: SearchSpace) -> None:
    """Raises `ConfigError` if an axis has no gradient estimate, since the sum over axes is then not defined."""
    axis = _axis_without_gradient(space)
    if axis is not None:
        raise ConfigError(
            f"axis {axis.name!r} of space {space.name!r} has no gradient estimate: gradients know bits only; use the "
            "measured one (search.estimate=measured)"
        )


def has_gradient(space: SearchSpace) -> bool:
    """Whether every axis has a gradient estimate."""
    return _axis_without_gradient(space) is None


def _axis_without_gradient(space: SearchSpace) -> Axis | None:
    return next((axis for axis in space.axes if axis.kind not in BITS_AXES), None)


@dataclass(frozen=True)
class Perturbation:
    """A change of a single axis of an architecture to another candidate."""

    axis: int
    candidate: int
    start: Architecture
    """The unperturbed architecture: the reference, or the most expensive one in which the axis is relevant."""
    architecture: Architecture
    """The perturbed architecture."""


class Perturbations:
    """All perturbations of a space.

    Args:
        table: The costs of the space.

    Attributes:
        reference: The most expensive architecture.
        all: One per axis and candidate other than the candidate of `start`, in this order.
    """

    def __init__(self, table: CostTable) -> None:
        self.table = table
        self.metric = reference_metric(table.space)
        self.reference = argmax_cost(table, self.metric)
        self.all = tuple(
            Perturbation(axis, candidate, start, self._perturb(start, axis, candidate))
            for axis, owner in enumerate(table.space.axes)
            for start in [self._start(axis)]
            for candidate in range(len(owner.candidates))
            if candidate != start[axis]
        )

    @property
    def architectures(self) -> list[Architecture]:
        """The distinct architectures to evaluate: the reference, other starts, perturbed architectures."""
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

    def _perturb(self, start: Architecture, axis: int, candidate: int) -> Architecture:
        allowed = {**self._fixed(start), axis: [candidate]}
        return argmax_cost(self.table, self.metric, allowed=allowed)


@dataclass(frozen=True)
class Loss:
    """The degradation by a perturbation; negative if it improves the network."""

    perturbation: Perturbation
    loss: float | None
    """Increase of the mean cross-entropy in nats; None if only scores are known."""
    score: float | None
    """Decrease of top-1 in [0, 1], or of the user's score; None if only the loss is estimated."""

    @property
    def degradation(self) -> float:
        """The loss increase if it is known, else the decrease of the score."""
        value = self.score if self.loss is None else self.loss
        assert value is not None
        return value


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivities of a space.

    Attributes:
        estimate: `measured`, one evaluation per candidate, or `gradient`, from gradients alone.
        reference: The most expensive architecture.
        rows: The degradation by each perturbation, in order of axes and candidates.
    """

    estimate: str
    reference: Architecture
    rows: tuple[Loss, ...]

    def losses(self, space: SearchSpace) -> Losses:
        """Per axis, the degradation by each candidate; 0 for the unperturbed candidate."""
        finite = [abs(row.degradation) for row in self.rows if isfinite(row.degradation)]
        worst = _WORST * max(finite, default=1.0)
        losses = [np.zeros(len(axis.candidates)) for axis in space.axes]
        for row in self.rows:
            value = row.degradation if isfinite(row.degradation) else worst
            losses[row.perturbation.axis][row.perturbation.candidate] = value
        return losses

    def optima(self, table: CostTable, *, count: int = 1, **budgets: str | float) -> list[Architecture]:
        """The architectures with the least sum of degradations within budgets, best first; exact.

        Args:
            table: The costs of the space: `supernet.table`.
            count: Number of architectures.
            **budgets: `bitops_budget`, `weight_bytes_budget` and so on, for example "w4a8".

        Raises:
            BudgetError: a budget is invalid or infeasible.
            ConfigError: an axis has no estimate.
            TypeError: a keyword does not end in `_budget`.
        """
        for name in budgets:
            if not name.endswith("_budget"):
                raise TypeError(f"optima() got an unexpected keyword {name!r}; budgets end in _budget")
        if self.estimate == "gradient":
            check_gradient(table.space)
        limits = [parse_budget(text, name.removesuffix("_budget"), table) for name, text in budgets.items()]
        return optima(table, self.losses(table.space), limits, count=count)

    def to_json(self, table: CostTable) -> dict[str, Any]:
        """Plain values, as stored in a run and drawn in its report."""
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
    """The sensitivities that `to_json` wrote for this space."""
    perturbations = Perturbations(table)
    names = {(row["axis"], row["architecture"]): row for row in raw["rows"]}
    rows = []
    for perturbation in perturbations.all:
        key = table.space.axes[perturbation.axis].name, table.space.encode(perturbation.architecture)
        if key in names:
            # Both are null if the estimate was not finite, which JSON cannot represent.
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
        "loss": _finite(row.loss),
        "score": _finite(row.score),
        "saved": table.total(perturbation.start, metric) - table.total(perturbation.architecture, metric),
    }


def _finite(value: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return value if value is not None and isfinite(value) else None


def measured(
    perturbations: Perturbations, evaluations: Mapping[Architecture, tuple[float, float | None]]
) -> Sensitivity:
    """Sensitivities from evaluations.

    Args:
        perturbations: The perturbations of the space.
        evaluations: Score and loss (None if not known) of every architecture in `perturbations.architectures`.
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
