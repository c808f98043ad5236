"""The results of a run do not depend on the order of the images."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from stages_settings import TINY

from spos_quant.data import ArraySplit, load_data
from spos_quant.errors import RunError
from spos_quant.searchers.base import Evaluation
from spos_quant.stages.evaluator import evaluator_settings, open_log
from spos_quant.stages.open_run import open_existing

MODULE = """
import numpy as np

def load():
    z = np.load({path!r})
    parts = {{name: (z[name + "_x"], z[name + "_y"]) for name in ("train", "test")}}
    return {{**parts, "classes": [str(i) for i in range(10)], "pad": 1}}
"""


def written(folder, name, order):
    """The source `module:function` of the digits with training and test images in this order."""
    data = load_data("digits", input=(1, 8, 8), classes=10, seed=0)
    arrays = {}
    for split in ("train", "test"):
        part: ArraySplit = data.split(split)  # type: ignore[assignment]
        turn = order(part.labels)
        arrays |= {f"{split}_x": part.images[turn], f"{split}_y": part.labels[turn]}
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.py").write_text(MODULE.format(path=str(folder / f"{name}.npz")))
    return f"{name}:load"


def test_a_sorted_and_a_shuffled_copy_give_the_same_supernet_search_and_result(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    orders = {
        "by_class": lambda labels: np.argsort(labels, kind="stable"),
        "shuffled": lambda labels: np.random.default_rng(3).permutation(len(labels)),
    }
    runs = {}
    for name, order in orders.items():
        source = written(tmp_path, name, order)
        few = ["--set", "search.max_images=100", "--set", "train.epochs=1", "--set", "retrain.epochs=1"]
        command(
            *("run", "digits-mixed", "--data", source, "--bitops-budget", "4M", "--out", name, *TINY, *few), json=True
        )
        run = open_existing(name)
        with open_log(run) as log:
            evaluations = list(log)
        runs[name] = {
            "evaluations": evaluations,
            "supernet": run.supernet_path.read_bytes(),
            "bits": json.loads(run.result("bitops-4M").bits_path.read_text())["layers"],
            "model": run.result("bitops-4M").model_path.read_bytes(),
            "test": run.result("bitops-4M").metrics()["test"],
        }
        assert evaluations
    assert runs["by_class"] == runs["shuffled"]


def test_evaluations_on_other_images_are_reported_and_repeated(tiny_run, tmp_path, command, capsys):
    import shutil

    path = tmp_path / "run"
    shutil.copytree(tiny_run, path)
    run = open_existing(str(path))
    with open_log(run) as log:
        architectures = [one.architecture for one in log]
    # As in a log of a version that used the first images of search-val; every score is too high.
    run.log_path.unlink()
    with open_log(run) as log:
        log.settings = "firstimages"
        for architecture in architectures:
            log.add(Evaluation(architecture, 1.0, 0.0))
    command("search", str(path), "--bitops-budget", "3M", json=True)
    status, _, err = command("search", str(path), "--bitops-budget", "2.9M")
    assert status == 0
    assert f"{len(architectures):,} evaluations in {run.log_path} were made with another supernet, other images" in err
    with open_log(run) as log:
        made = list(log)
    assert made
    assert all(one.score < 1 for one in made)


def test_evaluator_settings_depend_on_the_images_that_score(tiny_run):
    run = open_existing(str(tiny_run))
    spec = run.spec
    few = spec.model_copy(update={"search": spec.search.model_copy(update={"max_images": 50})})
    found = {
        evaluator_settings(run),
        evaluator_settings(replace(run, seed=1)),
        evaluator_settings(replace(run, spec=few)),
    }
    assert len(found) == 3
    assert evaluator_settings(replace(run, spec=few), all_images=True) == evaluator_settings(run)


def test_a_run_of_format_1_is_refused(tiny_run, tmp_path):
    config = (tiny_run / "config.yaml").read_text()
    path = tmp_path / "old"
    path.mkdir()
    (path / "config.yaml").write_text(config.replace("format: 2", "format: 1", 1))
    with pytest.raises(RunError, match="trained on images that search-val holds now.*make the run again"):
        open_existing(str(path))
