"""A retraining that ends in integers: the trained integers are exported, also after an interruption."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml

from spos_quant.export.integer import reference
from spos_quant.export.integer.file import read_integers
from spos_quant.export.runtime import OnnxModel
from spos_quant.stages.fold import fold_in_process, model_to_export
from spos_quant.stages.load import load_model
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.open_run import open_existing

SPACE = {
    "name": "small",
    "backbone": "digits-resnet",
    "input": [1, 8, 8],
    "classes": 10,
    "axes": {"bits": [[2, 2], [4, 4]]},
    "data": "digits",
    "train": {"iterations": 1, "batch_size": 32, "compile": False},
    "retrain": {"iterations": 40, "batch_size": 32, "compile": False, "init": "fresh"},
    "search": {"recalibration_images": 64, "batch_size": 64},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from spos_quant.cli import run as run_command

    folder = tmp_path_factory.mktemp("fold")
    (folder / "small.yaml").write_text(yaml.safe_dump(SPACE))
    assert run_command(["train", str(folder / "small.yaml"), "--out", str(folder / "run"), "--json"]) == 0
    assert run_command(["retrain", str(folder / "run"), "--bits", "w2a2", "--json"]) == 0
    return folder / "run"


def test_a_finished_model_is_folded_and_its_integers_are_exported(run, command):
    result = open_existing(str(run)).pick(None)
    model = result.model_path.read_bytes()
    done = command("retrain", run, "--bits", "w2a2", "--set", "retrain.fold=0.5", json=True)
    assert done["skipped"] is False
    assert result.model_path.read_bytes() == model, "the model is unchanged"
    fold = done["fold"]
    assert (fold["share"], fold["steps"], fold["split"]) == (0.5, 20, "search-val")
    assert fold["before"] != fold["after"]
    assert 0 <= fold["before"]["agreement"] <= 1

    result = open_existing(str(run)).pick(None)
    graph = read_integers(result.folded_path)
    trained, unfolded = model_to_export(result, "integers"), load_model(result)
    x = next(iter(scoring_batches(result.run, "test", all_images=True)))[0]
    with torch.no_grad():
        ours = trained(x).numpy()
        assert not np.allclose(ours, unfolded(x).numpy(), atol=1e-3)
    theirs = reference.run(graph, x.numpy())
    assert (np.abs(ours - theirs).max(1) < 1e-4).mean() > 0.98
    right = sum(
        int((reference.run(graph, a.numpy()).argmax(1) == b.numpy()).sum())
        for a, b in scoring_batches(result.run, "search-val", all_images=True)
    )
    assert right / fold["after"]["n"] == pytest.approx(fold["after"]["top1"], abs=0.01)

    for form in ("onnx-int8", "integers"):
        made = command("export", run, "--format", form, json=True)
        assert made["agreement"] >= 0.99
    file = OnnxModel(result.path / "model-int8.onnx")
    for x, _ in scoring_batches(result.run, "test", all_images=True):
        ours, theirs = reference.run(graph, x.numpy()), file(x.numpy())
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
        assert (theirs.argmax(1) == ours.argmax(1)).all()
    found = command("verify", run, json=True)
    assert found["ok"]
    assert {file["bitops"] for file in found["files"]} == {found["model"]["bitops"]}
    assert command("retrain", run, "--bits", "w2a2", json=True)["skipped"] is True


def test_another_share_folds_again_and_an_interrupted_fold_resumes(run, command, interrupted_at):
    command("retrain", run, "--bits", "w4a4", "--set", "retrain.fold=0.2", json=True)
    whole = open_existing(str(run)).result("bits-w4a4")
    wanted = whole.folded_path.read_bytes()
    command("retrain", run, "--bits", "w4a4", "--set", "retrain.fold=0.1", json=True)
    metrics = json.loads(whole.metrics_path.read_text())
    assert metrics["fold"]["steps"] == 4
    assert whole.folded_path.read_bytes() != wanted

    command(
        "retrain", run, "--bits", "w4a4", "--set", "retrain.fold=0.2", "--set", "retrain.checkpoint_steps=3", json=True
    )
    assert whole.folded_path.read_bytes() == wanted, "the same share gives the same integers"
    whole.folded_path.unlink()
    result = open_existing(str(run)).result("bits-w4a4")
    with interrupted_at(5):
        fold_in_process(result, device="cpu", show=False)
    assert result.checkpoint_path.exists()
    fold_in_process(result, device="cpu", show=False)
    assert whole.folded_path.read_bytes() == wanted


def test_a_network_without_an_integer_form_is_an_error_before_it_is_trained(tmp_path, command):
    space = {**SPACE, "name": "half", "axes": {"bits": [[2, "float"]]}}
    (tmp_path / "half.yaml").write_text(yaml.safe_dump(space))
    command("train", tmp_path / "half.yaml", "--out", tmp_path / "run", json=True)
    bits = tmp_path / "some.bits.json"
    run = open_existing(str(tmp_path / "run"))
    bits.write_text(json.dumps(run.space.bit_config((0,) * len(run.space.axes)).to_json()))
    status, _, err = command("retrain", tmp_path / "run", "--bits", bits, "--set", "retrain.fold=0.5")
    assert status == 2
    assert "has float inputs" in err
    assert not list((tmp_path / "run").glob("results/*/model*"))
