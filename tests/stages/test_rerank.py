"""Re-ranking: the best candidates of a search on few images are scored on all images, and the best of them wins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from spos_quant.report.facts import early_end
from spos_quant.report.verdict import sentence
from spos_quant.searchers.base import Evaluation, Objective, Outcome, Scored
from spos_quant.stages.evaluator import open_log
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.rerank import Reranking
from spos_quant.stages.search_request import Request, Searched

SOME = ["--set", "search.max_images=64", "--set", "search.finalists=3"]


def candidates(*scores: float, within: bool = True) -> list[Scored]:
    """Candidates of increasing cost, in steps of 10."""
    return [Scored((i,), score, None, 10 * i, within) for i, score in enumerate(scores)]


def searched(results: list[Scored], reference: Scored | None = None, drop: float | None = None) -> Searched:
    objective = Objective(None if reference is None else reference.score - (drop or 0.0))
    beside = () if reference is None else (reference,)
    return Searched(Request(max_drop=drop), Outcome(results), objective, beside, len(results), None)


class Images:
    """A split of ten images, of which a search uses `seen`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, finalists: int, scores: dict[int, float], seen: int = 3
    ) -> None:
        monkeypatch.setattr(
            "spos_quant.stages.rerank.scoring_batches",
            lambda _run, split, all_images: SimpleNamespace(images=10 if all_images else seen),
        )
        run = SimpleNamespace(spec=SimpleNamespace(search=SimpleNamespace(finalists=finalists, max_images=seen)))
        self.scores, self.asked = scores, []
        self.reranking = Reranking(run, lambda: self.evaluate)  # type: ignore[arg-type]

    def evaluate(self, asked):
        self.asked += asked
        return [Evaluation(a, self.scores[a[0]]) for a in asked]


def test_the_best_on_all_images_comes_first(monkeypatch):
    images = Images(monkeypatch, 3, {1: 0.5, 2: 0.9, 3: 0.7})
    found = images.reranking.judge(searched(candidates(0.1, 0.6, 0.7, 0.8)))
    assert images.asked == [(3,), (2,), (1,)]
    assert [(one.scored.architecture, one.scored.score, one.searched.score) for one in found] == [
        ((2,), 0.9, 0.7),
        ((3,), 0.7, 0.8),
        ((1,), 0.5, 0.6),
    ]


def test_candidates_above_the_budget_are_no_finalists(monkeypatch):
    images = Images(monkeypatch, 3, {0: 0.5})
    assert images.reranking.judge(searched([*candidates(0.1), *candidates(0.9, 0.8, within=False)])) == []
    assert images.asked == [], "a single candidate is not scored again"


def test_an_accuracy_drop_is_relative_to_the_reference_on_all_images(monkeypatch):
    """The cheapest within the drop from the reference, whose score on all images differs from that of the search."""
    reference = candidates(*[0.0] * 5, 0.9)[-1]
    images = Images(monkeypatch, 3, {1: 0.70, 2: 0.78, 3: 0.80, 5: 0.80})
    search = searched(candidates(0.1, 0.88, 0.885, 0.89), reference, 0.03)
    found = images.reranking.judge(search)
    assert images.asked == [(1,), (2,), (3,), (5,)]
    assert found[0].scored.architecture == (2,)
    images.scores |= {2: 0.6, 3: 0.6}
    assert images.reranking.judge(search)[0].scored.architecture == (5,), "no cheaper one is within the drop"


def test_with_a_drop_of_zero_an_equal_score_suffices(monkeypatch):
    reference = candidates(*[0.0] * 9, 0.854)[-1]
    images = Images(monkeypatch, 3, dict.fromkeys((0, 1, 2, 9), 0.1902) | {0: 0.1})
    found = images.reranking.judge(searched(candidates(0.1, 0.854, 0.854), reference, 0.0))
    assert found[0].scored.architecture == (1,), "the cheapest of equals"


def test_a_single_candidate_is_compared_with_the_reference(monkeypatch):
    reference = candidates(*[0.0] * 5, 0.9)[-1]
    images = Images(monkeypatch, 1, {1: 0.7, 5: 0.8})
    found = images.reranking.judge(searched(candidates(0.1, 0.89), reference, 0.03))
    assert found[0].scored.architecture == (5,)


def test_a_time_limit_ends_the_reranking(monkeypatch):
    images = Images(monkeypatch, 3, dict.fromkeys(range(4), 0.5))
    assert images.reranking.judge(searched(candidates(0.1, 0.2, 0.3)), deadline=0.0) is None


@pytest.mark.parametrize(("finalists", "seen"), [(0, 3), (10, 10)])
def test_no_finalists_if_none_are_configured_or_all_images_are_used(monkeypatch, finalists, seen):
    images = Images(monkeypatch, finalists, {}, seen)
    assert images.reranking.judge(searched(candidates(0.1, 0.2, 0.3))) == []
    assert images.asked == []


@pytest.fixture
def copy(tiny_run, tmp_path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def test_a_search_on_some_images_is_reranked(copy, command):
    (whole,) = command("search", copy, "--bitops-budget", "2.4M", json=True)["results"]
    assert whole["finalists"] == []
    (made,) = command("search", copy, "--bitops-budget", "2.4M", *SOME, json=True)["results"]
    assert not made["skipped"]
    assert made["finalists"][0]["architecture"] == made["architecture"]
    assert len(made["finalists"]) == 3
    assert made["finalists"] == sorted(made["finalists"], key=lambda one: (-one["score"], one["loss"]))
    run = open_existing(str(copy))
    with open_log(run) as some, open_log(run, all_images=True) as every:
        for one in made["finalists"]:
            a = run.space.decode(one["architecture"])
            assert (some.get(a).score, some.get(a).loss) == (one["searched_score"], one["searched_loss"])
            assert (every.get(a).score, every.get(a).loss) == (one["score"], one["loss"])
        best = min((e for e in some if run.table.total(e.architecture) <= 2.4e6), key=lambda e: (-e.score, e.loss))
    assert run.space.encode(best.architecture) in [one["architecture"] for one in made["finalists"]]
    command("report", copy)
    report = json.loads((copy / "report.json").read_text())
    (row,) = [result for result in report["results"] if result["key"] == made["key"]]
    percent = f"{100 * made['finalists'][0]['score']:.1f} %"
    text = f" It won among 3 finalists scored on all of search-val, with {percent} in the supernet."
    assert text in sentence(report, row)
    (again,) = command("search", copy, "--bitops-budget", "2.4M", *SOME, json=True)["results"]
    assert again == {**made, "skipped": True}
    (parallel,) = command("search", copy, "--bitops-budget", "2.4M", *SOME, "--workers", 2, json=True)["results"]
    assert parallel["skipped"]


def test_a_search_that_runs_out_of_time_in_the_reranking_resumes(copy, command, monkeypatch):
    asked = ("search", copy, "--bitops-budget", "2.4M", *SOME)
    with monkeypatch.context() as patch:
        patch.setattr(Reranking, "judge", lambda *_, **__: None)
        (early,) = command(*asked, "--timeout", "10m", json=True)["results"]
    assert (early["complete"], early["finalists"]) == (False, None)
    command("report", copy)
    report = json.loads((copy / "report.json").read_text())
    (row,) = [result for result in report["results"] if result["key"] == early["key"]]
    assert early_end(row) == "ended early by the time limit, before its finalists were scored on all images"
    (made,) = command(*asked, json=True)["results"]
    assert made["complete"]
    assert len(made["finalists"]) == 3


def test_searches_from_before_finalists_existed_stay_finished(copy, command):
    path = next((copy / "results").glob("bitops-2.2M/search.json"))
    stored = json.loads(path.read_text())
    assert "finalists" not in stored["settings"]["search"]


@pytest.mark.slow
def test_reranking_does_not_depend_on_the_workers(copy, command, tmp_path):
    shutil.copytree(copy, tmp_path / "other")
    found = []
    for run, workers in ((copy, 0), (tmp_path / "other", 2)):
        (made,) = command("search", run, "--bitops-budget", "2.4M", *SOME, "--workers", workers, json=True)["results"]
        found.append(json.loads((run / "results" / made["key"] / "search.json").read_text()))
    assert found[0]["finalists"]
    assert found[0] == found[1]
