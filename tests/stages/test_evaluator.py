"""What an evaluator is made like follows from the run alone, as far as scores depend on it."""

from __future__ import annotations

from dataclasses import replace

from spos_quant.stages import evaluator
from spos_quant.stages.plan import open_existing


def test_scores_do_not_depend_on_the_size_of_a_search(tiny_run, monkeypatch):
    parts = evaluator.parts_of(open_existing(str(tiny_run)))

    def made(**search: int) -> tuple[bool, bool]:
        """Whether kernels are compiled, which changes no score, and whether weights are contiguous, which may."""
        settings = parts.spec.search.model_copy(update=search)
        found = evaluator.make_evaluator(replace(parts, spec=parts.spec.model_copy(update={"search": settings})), "cpu")
        inner = found.evaluator
        return inner.compiled, all(p.is_contiguous() for p in inner.supernet.parameters())

    assert made() == (False, True)
    assert made(population=100_000, generations=1_000) == (True, True)
    monkeypatch.setattr(evaluator, "_WORTH_REORDERING", 1)
    assert made() == (False, False)
