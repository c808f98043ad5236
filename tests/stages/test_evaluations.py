"""Reports of many evaluations: subset of the page, complete fronts and CSV."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from spos_quant.backbones.build import load_spec
from spos_quant.run_dir import store_json
from spos_quant.searchers.base import Evaluation, Scored
from spos_quant.searchers.pareto import front, hypervolume
from spos_quant.stages import evaluations as module
from spos_quant.stages.evaluations import evaluated
from spos_quant.stages.evaluator import open_log
from spos_quant.stages.report import write_report
from spos_quant.stages.run import Run, environment
from spos_quant.supernet.weights import save_weights

COUNT = 300


@pytest.fixture
def run(tmp_path) -> Run:
    """A run whose log holds random evaluations."""
    made = Run(tmp_path, load_spec("digits-mixed"), "digits", 0)
    save_weights(torch.nn.Linear(2, 2), made.supernet_path, {"history": []})
    store_json(tmp_path / "environment.json", environment())
    rng = np.random.default_rng(0)
    with open_log(made) as log:
        for i, architecture in enumerate([made.space.uniform(4, 4), *made.space.sample_many(rng, COUNT - 1)]):
            log.add(Evaluation(architecture, float(rng.integers(20)) / 20, None if i % 7 else float(rng.random())))
    return made


def test_columns_and_fronts_hold_the_whole_log(run):
    found = evaluated(run)
    with open_log(run) as log:
        kept = list(log)
    assert [run.space.decode(text) for text in found.texts] == [e.architecture for e in kept]
    assert found.scores.tolist() == [e.score for e in kept]
    assert list(found.losses) == [e.loss for e in kept]
    for metric, costs in found.costs.items():
        assert costs.tolist() == [run.table.total(e.architecture, metric) for e in kept]
        scored = [Scored(e.architecture, e.score, e.loss, c) for e, c in zip(kept, costs.tolist(), strict=True)]
        indices, info = found.front(metric)
        assert [scored[i] for i in indices] == front(scored)
        reference = info["reference"]
        assert info["hypervolume"] == hypervolume(scored, cost=reference["cost"], score=reference["score"]) > 0


def test_a_page_of_many_evaluations_shows_fronts_baselines_and_a_sample(run, monkeypatch):
    whole = evaluated(run)
    write_report(run)
    everything = json.loads((run.path / "report.json").read_text())
    assert everything["evaluated"] == len(everything["evaluations"]) == len(whole)
    monkeypatch.setattr(module, "SHOWN", 20)
    assert write_report(run)["evaluations"] == len(whole)
    data = json.loads((run.path / "report.json").read_text())
    shown = data["evaluations"]
    assert data["evaluated"] == len(whole)
    assert 20 <= len(shown) < len(whole)
    names = [item["architecture"] for item in shown]
    assert names == [name for name in whole.texts if name in names]  # in the order of evaluation
    for metric, found in data["fronts"].items():
        before = everything["fronts"][metric]
        assert found["hypervolume"] == before["hypervolume"]
        assert [shown[i] for i in found["front"]] == [everything["evaluations"][i] for i in before["front"]]
    assert data["baselines"] == everything["baselines"] != []
    page = (run.path / "report.html").read_text()
    assert f"The plot shows {len(shown)} of {len(whole)}, including the fronts" in page
    rows = list(csv.DictReader((run.path / "evaluations.csv").open()))
    assert [row["architecture"] for row in rows] == list(whole.texts)
    assert sum(int(row["on_front"]) for row in rows) == len(data["front"])


def test_a_run_without_evaluations(run):
    run.log_path.unlink()
    found = evaluated(run)
    assert len(found) == 0
    assert found.shown([]) == []
    assert all(values == [] or len(values) == 0 for values in found.columns("bitops", []).values())
