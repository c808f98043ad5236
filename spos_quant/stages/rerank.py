"""The best candidates of a search again, on all images: of many scores on few images the best is partly luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spos_quant.progress import progress
from spos_quant.searchers.base import Scored
from spos_quant.searchers.evaluators import LoggedEvaluator
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.run import Run

if TYPE_CHECKING:
    from spos_quant.stages.search import Searched


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
    if run.spec.search.max_images is None:  # and nothing has to be loaded to know it
        return 0
    some, every = (scoring_batches(run, "search-val", all_images=whole).images for whole in (False, True))
    return run.spec.search.finalists if some < every else 0


class Reranking:
    """Scores finalists where `search.max_images` leaves images out.

    Args:
        run: Its `search.finalists` says how many.
        make: Makes the evaluator that scores on all images; called where there is something to score.
    """

    def __init__(self, run: Run, make: Callable[[], LoggedEvaluator]) -> None:
        self.run, self._make = run, make
        self._evaluate: LoggedEvaluator | None = None
        self.places = places(run)

    def judge(self, searched: Searched, *, deadline: float | None = None, show: bool = False) -> list[Finalist] | None:
        """The finalists, the best on all images first; none where there is nothing to choose; None where time ran out.

        The reference that accuracy is measured against takes part, and counts with its score on all images.

        Args:
            searched: A search that came to its end.
            deadline: A `time.monotonic()` after which no further one is started.
            show: Whether progress is shown.
        """
        objective = searched.objective
        ordered = sorted((one for one in searched.outcome.results if one.within), key=objective.rank)
        chosen = {one.architecture: one for one in (*ordered[: self.places], *searched.reference)}
        if not ordered[: self.places] or len(chosen) < 2:
            return []
        self._evaluate = self._evaluate or self._make()
        found = {}
        with progress(f"finalists of {searched.request.key}", len(chosen), unit="architectures", show=show) as tick:
            for one in self._evaluate(list(chosen)):
                before = chosen[one.architecture]
                found[one.architecture] = Finalist(before, replace(before, score=one.score, loss=one.loss))
                tick(f"top-1 {one.score:.4f}")
                if deadline is not None and time.monotonic() > deadline and len(found) < len(chosen):
                    return None
        for reference in searched.reference:
            least = found[reference.architecture].scored.score - (searched.request.max_drop or 0.0)
            objective = replace(objective, least_score=least)
        return sorted(found.values(), key=lambda one: objective.rank(one.scored))
