"""Every built-in search space, small: trained, searched, retrained, exported and verified by the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spos_quant.backbones.build import builtin_spaces, load_spec
from spos_quant.run_dir import read_json

FAST = ("shufflenetv2-channels",)
"""The others, which are dear, are in the slow suite."""
DONE = ("digits-mixed", "digits-blocks")
"""Which other tests run."""
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
    """The space with four classes of pictures of 32 x 32; everything else as it is."""
    raw = load_spec(name).model_dump(mode="json", exclude_none=True)
    raw |= {"input": [3, 32, 32], "classes": 4}
    raw["train"] |= {"warmup_epochs": 0.0}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in builtin_spaces() if n not in DONE]
)
def test_run(name: str, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    metric = "macs" if load_spec(name).full_precision else "bitops"
    settings = [part for key, value in TINY for part in ("--set", f"{key}={value}")]
    run = tmp_path / "run"
    done = command(
        "run", small(name, tmp_path), f"--{metric}-budget", "60%", "--data", "fake", "--out", run, *settings, json=True
    )
    verified = command("verify", run, json=True)
    rows = verified["files"]
    assert rows
    for row in rows:
        assert row["agreement"] == 1.0
        assert row["budget_kept"]
    search = read_json(run / "results" / f"{metric}-60pct" / "search.json")
    assert search["evaluations"] == 2
    assert done["report"]
