"""Sensitivities and the knapsack from the command line: untrained float weights, resuming, workers, the report."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

import spos_quant as sq
from spos_quant.backbones.build import space_of
from spos_quant.cost.sensitivity import Perturbations, from_json
from spos_quant.run_dir import read_artifact
from spos_quant.space.spec import parse_spec
from spos_quant.stages.evaluator import open_log
from spos_quant.stages.open_run import open_existing

SPACE = {
    "name": "bits",
    "backbone": "digits-resnet",
    "input": [1, 8, 8],
    "classes": 10,
    "data": "digits",
    "axes": {"bits": [[2, 4], [4, 4], [8, 8]]},
    "train": {"iterations": 0},
    "retrain": {"iterations": 0},
    "search": {"population": 4, "generations": 1, "recalibration_images": 64, "max_images": 64, "gradient_images": 64},
}


GRADIENT = ("--set", "search.estimate=gradient")


@pytest.fixture(scope="module")
def space_file(tmp_path_factory):
    """A space that starts from float weights, which are random because accuracy does not matter here."""
    folder = tmp_path_factory.mktemp("space")
    floats = {**SPACE, "axes": {"bits": [["float", "float"]]}, "train": {}}
    torch.manual_seed(0)
    model = sq.build(space_of(parse_spec(floats, "floats"))).subnet(())
    torch.save(model.state_dict(), folder / "float.pt")
    path = folder / "bits.yaml"
    path.write_text(yaml.safe_dump({**SPACE, "weights": str(folder / "float.pt")}))
    return path


@pytest.fixture(scope="module")
def run_path(space_file, tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "run"


def test_a_measured_estimate_is_stored_and_reused(command, space_file, run_path):
    made = command("sensitivity", space_file, "--out", run_path, json=True)
    assert made["complete"]
    assert not made["skipped"]
    run = open_existing(str(run_path))
    perturbations = Perturbations(run.table)
    with open_log(run) as found:
        log = {e.architecture: e for e in found}
    assert set(log) == set(perturbations.architectures)
    for row, d in zip(made["rows"], perturbations.all, strict=True):
        assert row["loss"] == pytest.approx(log[d.architecture].loss - log[d.start].loss)
        assert row["score"] == pytest.approx(log[d.start].score - log[d.architecture].score)
        assert row["saved"] == run.table.total(d.start) - run.table.total(d.architecture)
    stored = read_artifact(run_path / "sensitivity.json")  # checks its checksum
    assert stored["reference"] == run.space.encode(perturbations.reference)
    assert stored["images"] == {"recalibration": 64, "search_val": 64}
    assert from_json(stored, run.table).rows[0].loss == made["rows"][0]["loss"]
    again = command("sensitivity", run_path, json=True)
    assert again["skipped"]
    assert {**again, "skipped": False} == made


def test_weights_are_used_without_training(command, space_file, run_path):
    done = command("train", space_file, "--out", run_path, json=True)
    assert done["epoch"] == 0
    from spos_quant.stages.models import load_supernet

    run = open_existing(str(run_path))
    weights = torch.load(run.spec.weights, weights_only=True)
    layer = next(p for p in load_supernet(run).body.modules() if getattr(p, "searchable", False))
    assert any(torch.equal(layer.weight, tensor) for tensor in weights.values())


def test_gradient_and_knapsack_within_the_budget(command, space_file, run_path):
    made = command("sensitivity", space_file, "--out", run_path, "--estimate", "gradient", json=True)
    assert all(row["loss"] >= 0 and row["score"] is None for row in made["rows"])
    assert made["images"] == 64
    options = ("--weight-bytes-budget", "w4a4", "--searcher", "knapsack")
    (measured,) = command("search", run_path, *options, json=True)["results"]
    (found,) = command("search", run_path, *options, *GRADIENT, "--set", "search.solutions=3", json=True)["results"]
    assert measured["key"] == found["key"] == "weight_bytes-w4a4-knapsack"
    assert found["evaluations"] == found["planned"] == 3
    run = open_existing(str(run_path))
    limit = found["budget"]["weight_bytes"]
    for result in (measured, found):
        assert run.table.total(run.space.decode(result["architecture"]), "weight_bytes") <= limit
    first = from_json(read_artifact(run_path / "sensitivity-gradient.json"), run.table).optima(
        run.table, weight_bytes_budget="w4a4"
    )
    asked = json.loads((run_path / "results" / found["key"] / "asked.json").read_text())
    assert asked["architectures"][0] == run.space.encode(first[0])


def test_the_report_draws_sensitivities(command, run_path):
    command("report", run_path, json=True)
    data = json.loads((run_path / "report.json").read_text())
    assert [found["estimate"] for found in data["sensitivities"]] == ["measured", "gradient"]
    page = (run_path / "report.html").read_text()
    assert 'id="sensitivity-measured-plot"' in page
    assert 'id="sensitivity-gradient-plot"' in page


def test_a_model_without_training_is_evaluated(command, run_path):
    """Post-training quantization: nothing is trained, statistics are recomputed, the model is scored."""
    key = "weight_bytes-w4a4-knapsack"
    done = command("retrain", run_path, "--result", key, json=True)
    assert done["search_val"]["n"] > 0
    model = sq.load(run_path, key)
    assert sq.measure(model, torch.zeros(1, 1, 8, 8))["weight_bytes"] <= 10**9


def test_dry_run_reports_the_work(command, run_path):
    for estimate, unit in (("measured", "architectures"), ("gradient", "batches")):
        found = command("sensitivity", run_path, "--estimate", estimate, "--dry-run", json=True)
        assert found["stages"][-1]["unit"] == unit
        assert found["stages"][0]["units"] == 0


def test_a_time_limit_keeps_evaluations_and_the_next_command_resumes(command, space_file, tmp_path, monkeypatch):
    status, _, err = command("sensitivity", space_file, "--out", tmp_path / "r", "--timeout", "0.000001s")
    assert status == 0
    assert "repeat the command" in err
    run = open_existing(str(tmp_path / "r"))
    with open_log(run) as log:
        assert len(log) == 1
    assert not (tmp_path / "r" / "sensitivity.json").exists()
    status, _, err = command(
        "search", tmp_path / "r", "--bitops-budget", "w4a4", "--searcher", "knapsack", "--timeout", "0.000001s"
    )
    assert status == 2
    assert "before anything within the budget was evaluated" in err
    assert command("sensitivity", tmp_path / "r", json=True)["complete"]


@pytest.mark.slow
def test_workers_change_nothing(command, space_file, run_path, tmp_path):
    one = command("sensitivity", space_file, "--out", run_path, json=True)
    other = command("sensitivity", space_file, "--out", tmp_path / "r", "--workers", "2", json=True)
    assert other["rows"] == one["rows"]


def test_invalid_arguments_are_reported_before_anything_is_written(command, tmp_path, space_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (("sensitivity", "digits-mixed", "--estimate", "gradients"), "did you mean 'gradient'"),
        (("sensitivity", "digits-mixed", "--set", "train.iterations=0"), "names none; give weights: FILE"),
        (
            ("search", "digits-mixed", "--bitops-budget", "35%", "--searcher", "knapsack", *GRADIENT),
            "gradients know bits only",
        ),
        (("sensitivity", "digits-mixed", "--timeout", "soon"), "such as 90s, 30m or 2h"),
        (("search", "digits-mixed", "--bitops-budget", "35%", "--set", "search.first=knapsak"), "random or knapsack"),
    ):
        status, _, err = command(*arguments)
        assert status == 2, arguments
        assert message in err
    assert not list(tmp_path.iterdir())
