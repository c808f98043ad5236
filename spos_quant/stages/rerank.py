"""Re-ranks the best candidates of a search on all images, because the best of many scores on few is partly luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from spos_quant.progress import progress
from spos_quant.searchers.base import Scored
from spos_quant.searchers.evaluators import CachedEvaluator
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.run import Run
from spos_quant.stages.search_request import Searched


@dataclass(frozen=True)
class Finalist:
    """A candidate of a search that is scored again on all images."""

    searched: Scored
    """The score of the search."""
    scored: Scored
    """The score on all images."""

    def to_json(self, run: Run) -> dict[str, Any]:
        """The entry in `search.json`."""
        scored, searched = self.scored, self.searched
        return {
            "architecture": run.space.encode(scored.architecture),
            "score": scored.score,
            "loss": scored.loss,
            "searched_score": searched.score,
            "searched_loss": searched.loss,
        }


def places(run: Run) -> int:
    """Number of finalists of a search; 0 if the search already scores on all images."""
    if run.spec.search.max_images is None:  # decided without loading the data set
        return 0
    some, every = (scoring_batches(run, "search-val", all_images=whole).images for whole in (False, True))
    return run.spec.search.finalists if some < every else 0


class Reranking:
    """Scores finalists on all images if `search.max_images` leaves images out.

    Args:
        run: The run; `search.finalists` is the number of finalists.
        make: Makes the evaluator that scores on all images; called when the first finalists must be scored.
    """

    def __init__(self, run: Run, make: Callable[[], CachedEvaluator]) -> None:
        self.run, self._make = run, make
        self._evaluate: CachedEvaluator | None = None
        self.places = places(run)

    def judge(self, searched: Searched, *, deadline: float | None = None, show: bool = False) -> list[Finalist] | None:
        """The finalists, the best on all images first; empty if there are fewer than two; None if time ran out.

        The reference of an accuracy drop is scored on all images too, and the drop is relative to that score.

        Args:
            searched: A completed search.
            deadline: A `time.monotonic()` after which no further candidate is started.
            show: Whether to show progress.
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
