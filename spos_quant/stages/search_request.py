"""What a search is asked for, and what it found before its best candidates are re-ranked."""

from __future__ import annotations

from dataclasses import dataclass

from spos_quant.cost.budget import Budget, budgets_key
from spos_quant.searchers.base import Objective, Outcome, Scored


@dataclass(frozen=True)
class Request:
    """The request of one search."""

    budgets: tuple[Budget, ...] = ()
    searcher: str = "evolution"
    max_drop: float | None = None
    """Instead of a budget: largest top-1 drop from the most expensive architecture; the cheapest within it wins."""
    timeout: float | None = None
    """Seconds after which no further architecture is started."""

    @property
    def key(self) -> str:
        """The key of its result."""
        name = budgets_key(list(self.budgets)) if self.max_drop is None else f"drop-{self.max_drop:g}"
        return name if self.searcher == "evolution" else f"{name}-{self.searcher}"


@dataclass(frozen=True)
class Searched:
    """The outcome of a search before re-ranking."""

    request: Request
    outcome: Outcome
    objective: Objective
    reference: tuple[Scored, ...]
    """The most expensive architecture if the request has a `max_drop`, else empty."""
    planned: int
    left: float | None
    """Remaining seconds of its time limit; None without a limit."""
