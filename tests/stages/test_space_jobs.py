"""Every built-in search space, small: trained, searched, retrained, exported and verified by the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spos_quant.backbones.build import builtin_spaces, load_spec
from spos_quant.export import api
from spos_quant.reading import read_yaml
from spos_quant.run_dir import read_json

DONE = ("digits-mixed", "digits-blocks", "shufflenetv2-blocks")
"""Spaces that other tests run; the others are expensive to build and are in the slow suite."""
TINY = (
    ("train.iterations", 2),
    ("train.batch_size", 8),
    ("retrain.iterations", 2),
    ("retrain.batch_size", 8),
    ("search.population", 2),
    ("search.generations", 1),
    ("search.recalibration_images", 16),
    ("search.batch_size", 16),
    ("search.max_images", 16),
)


def small(name: str, folder: Path) -> Path:
    """The space with four classes and images of 32 x 32; everything else is unchanged."""
    raw = load_spec(name).model_dump(mode="json", exclude_none=True)
    raw |= {"input": [3, 32, 32], "classes": 4}
    raw["train"] |= {"warmup_epochs": 0.0}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def run_small(name: str, data: str, folder: Path, command, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    # After two steps the predictions of a deep network are nearly random and depend on the rounding of sums.
    monkeypatch.setattr(api, "MIN_AGREEMENT", 0.8)
    metric = "macs" if load_spec(name).full_precision else "bitops"
    settings = [part for key, value in TINY for part in ("--set", f"{key}={value}")]
    run = folder / "run"
    options = [f"--{metric}-budget", "80%", "--data", data, "--out", run, *settings]
    done = command("run", small(name, folder), *options, json=True)
    assert Path(done["report"]).is_file()
    result = command("verify", run, json=True)
    assert result["ok"]
    assert result["files"]
    assert all(row["agreement"] >= 0.8 and row["budget_kept"] for row in result["files"])
    search = read_json(run / "results" / f"{metric}-80pct" / "search.json")
    assert search["evaluations"] == 2
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in builtin_spaces() if n not in DONE])
def test_run(name: str, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    run_small(name, "fake", tmp_path, command, monkeypatch)


def test_the_papers_recipe_on_a_folder_of_images(tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' crops, flips, colours, linear schedule and plain momentum, with a few steps instead of 150,000."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for label in range(4):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    run = run_small("shufflenetv2-blocks", f"imagefolder:{tmp_path / 'images'}", tmp_path, command, monkeypatch)
    config = read_yaml(run / "config.yaml")["space"]
    assert (config["train"]["schedule"], config["train"]["nesterov"], config["train"]["lr"]) == ("linear", False, 0.5)
    search = read_json(run / "results" / "macs-80pct" / "search.json")
    assert len(search["architecture"].split(",")) == 20
    assert (run / "results" / "macs-80pct" / "model.onnx").is_file()
