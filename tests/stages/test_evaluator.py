"""Everything in an evaluator that affects scores depends on the run only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spos_quant.stages import evaluator
from spos_quant.stages.open_run import open_existing


def test_scores_do_not_depend_on_the_size_of_a_search(tiny_run, monkeypatch):
    parts = evaluator.evaluator_parts(open_existing(str(tiny_run)))

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


def test_integer_evaluation_is_used_if_available_and_logged_separately(tiny_run, monkeypatch, capsys):
    run = open_existing(str(tiny_run))
    parts, settings = evaluator.evaluator_parts(run), evaluator.evaluator_settings(run)
    asked = replace(
        parts, spec=parts.spec.model_copy(update={"search": parts.spec.search.model_copy(update={"int8": True})})
    )
    monkeypatch.setattr(evaluator, "integers_available", lambda: True)
    assert evaluator.make_evaluator(asked, "cpu").evaluator.int8
    assert not evaluator.make_evaluator(parts, "cpu").evaluator.int8
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(evaluator, "integers_available", lambda: False)
    assert not evaluator.make_evaluator(asked, "cpu").evaluator.int8
    assert "search.int8 needs a processor with VNNI" in capsys.readouterr().err
    assert evaluator.evaluator_settings(replace(run, spec=asked.spec)) != settings


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True, None])
def test_on_a_gpu_scores_do_not_depend_on_how_they_are_computed(tiny_run, compiled):
    parts = evaluator.evaluator_parts(open_existing(str(tiny_run)))
    search = parts.spec.search.model_copy(update={"population": 100_000, "generations": 1_000})
    long = replace(parts, spec=parts.spec.model_copy(update={"search": search}))
    plain, made = evaluator.make_evaluator(parts, "cuda"), evaluator.make_evaluator(long, "cuda")
    assert made.evaluator.compiled is None, "measured"
    made.evaluator.compiled = compiled
    asked = plain.evaluator.supernet.space.sample_many(np.random.default_rng(0), 3)
    assert list(made(asked)) == list(plain(asked))
