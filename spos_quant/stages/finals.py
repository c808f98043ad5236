"""The best candidates of a search again, on all images: of many scores on few images the best is partly luck."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from spos_quant.progress import progress
from spos_quant.searchers.base import Objective, Scored
from spos_quant.searchers.evaluate import LoggedEvaluator
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.run import Run


@dataclass(frozen=True)
class Finalist:
    """A candidate of a search."""

    searched: Scored
    """As the search scored it."""
    scored: Scored
    """On all images."""

    def to_json(self, run: Run) -> dict[str, Any]:
        """What `search.json` holds."""
        scored, searched = self.scored, self.searched
        return {
            "architecture": run.space.encode(scored.architecture),
            "score": scored.score,
            "loss": scored.loss,
            "searched_score": searched.score,
            "searched_loss": searched.loss,
        }


def places(run: Run) -> int:
    """How many finalists a search has: none where it scores on all images anyway."""
    some, every = (scoring_batches(run, "search-val", all_images=whole).images for whole in (False, True))
    return run.spec.search.finalists if some < every else 0


class Finals:
    """Scores finalists where `search.max_images` leaves images out.

    Args:
        run: Its `search.finalists` says how many.
        make: Makes the evaluator that scores on all images; called where there is something to score.
    """

    def __init__(self, run: Run, make: Callable[[], LoggedEvaluator]) -> None:
        self.run, self._make = run, make
        self._evaluate: LoggedEvaluator | None = None
        self.places = places(run)

    def judge(
        self,
        results: Iterable[Scored],
        objective: Objective,
        *,
        reference: Scored | None = None,
        deadline: float | None = None,
        show: bool = False,
    ) -> list[Finalist] | None:
        """The finalists, the best on all images first; none where there is nothing to choose; None where time ran out.

        Args:
            results: Of a search.
            objective: Of the search.
            reference: What accuracy is measured against: it takes part, and its score on all images takes its place.
            deadline: A `time.monotonic()` after which no further one is started.
            show: Whether progress is shown.
        """
        ordered = sorted((one for one in results if one.within), key=objective.rank)
        chosen = {one.architecture: one for one in ordered[: self.places]}
        if len(chosen) < 2:
            return []
        if reference is not None:
            chosen.setdefault(reference.architecture, reference)
        self._evaluate = self._evaluate or self._make()
        found = []
        with progress("finalists", len(chosen), unit="architectures", show=show) as tick:
            for one, searched in zip(self._evaluate(list(chosen)), chosen.values(), strict=True):
                found.append(Finalist(searched, replace(searched, score=one.score, loss=one.loss)))
                tick(f"top-1 {one.score:.4f}")
                if deadline is not None and time.monotonic() > deadline and len(found) < len(chosen):
                    return None
        if reference is not None:
            assert objective.least_score is not None
            whole = next(one for one in found if one.searched.architecture == reference.architecture)
            change = whole.scored.score - reference.score
            objective = replace(objective, least_score=objective.least_score + change)
        return sorted(found, key=lambda one: objective.rank(one.scored))
