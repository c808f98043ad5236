"""`spos-quant latency` and searches under its budget."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from stages_settings import TINY

import spos_quant as sq
from spos_quant.cost.budget import cost_range
from spos_quant.cost.latency import calls, latency_csv, read_latency_csv
from spos_quant.errors import ConfigError

FEW = ["--n", 2]


@pytest.fixture(scope="module")
def measured(tiny_run, tmp_path_factory) -> Path:
    """A run with a supernet and a latency table; tests copy it before they change it."""
    from spos_quant.cli import run as run_command

    path = tmp_path_factory.mktemp("latency") / "run"
    shutil.copytree(tiny_run, path)
    assert run_command(["latency", str(path), "--n", "2", "--json"]) == 0
    return path


@pytest.fixture
def copy(measured, tmp_path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "run"))


def rewrite(path: Path, text: str) -> Path:
    """Writes a user's table beside the run."""
    path.write_text(text, "utf-8")
    return path


def test_every_call_of_a_space_is_measured_once(command, copy):
    space, table = sq.load_space("digits-mixed"), read_latency_csv(copy / "latency.csv")
    assert set(table.layers) == set(calls(space))
    assert min(table.layers.values()) > 0
    assert len(table.networks) == 2
    before = (copy / "latency.csv").read_bytes()
    again = command("latency", copy, *FEW, json=True)
    assert (again["measured"], again["networks"]) == (0, 2)
    assert (copy / "latency.csv").read_bytes() == before
    more = command("latency", copy, "--n", 3, json=True)
    assert (more["measured"], more["networks"]) == (1, 3)
    assert more["cheapest"] < more["dearest"]
    assert more["error"]["networks"] == 3
    status, out, err = command("latency", copy, "--n", 3)
    assert status == 0
    assert "nothing was left to measure" in err
    assert "of 3 whole networks it is off by" in out


def test_a_killed_command_resumes(command, copy, monkeypatch):
    from spos_quant.stages import latency as stage

    rows = read_latency_csv(copy / "latency.csv").layers
    (copy / "latency.csv").unlink()
    real, turns = stage.layer_latencies, iter((True, False))

    def once(layers, **how):
        if not next(turns):
            raise KeyboardInterrupt
        return real(layers, **how)

    monkeypatch.setattr(stage, "layer_latencies", once)
    with pytest.raises(KeyboardInterrupt):
        stage.latency_run(sq_run(copy), threads=1, networks=0, show=False)
    half = read_latency_csv(copy / "latency.csv").layers
    assert 0 < len(half) < len(rows)
    monkeypatch.setattr(stage, "layer_latencies", real)
    found = command("latency", copy, "--n", 0, json=True)
    assert found["measured"] == len(rows) - len(half)
    after = read_latency_csv(copy / "latency.csv").layers
    assert {call: after[call] for call in half} == half


def sq_run(path: Path):
    from spos_quant.stages.run import read_run

    return read_run(path)[0]


def test_search_and_verify_keep_the_latency_budget(command, copy):
    run = sq_run(copy)
    (result,) = command("search", copy, "--latency-budget", "60%", json=True)["results"]
    limit = result["budget"]["latency"]
    assert result["key"] == "latency-60pct"
    assert result["costs"]["latency"] == run.table.total(run.space.decode(result["architecture"]), "latency") <= limit
    _, _, err = command("search", copy, "--latency-budget", "60%")
    assert "latency is a sum over layers (onnxruntime" in err
    assert "already finished" in err
    made = command("run", copy, "--latency-budget", "60%", json=True)
    assert made["rows"]
    verified = command("verify", copy, "--result", "latency-60pct", json=True)
    assert [file["budget_kept"] for file in verified["files"]] == [True]
    report = json.loads((copy / "report.json").read_text("utf-8"))
    assert "latency" in report["fronts"]
    (row,) = (row for row in report["results"] if row["key"] == "latency-60pct")
    assert row["cost"]["latency"] == result["costs"]["latency"]


def test_another_table_repeats_the_search(command, copy, tmp_path):
    first = command("search", copy, "--latency-budget", "60%", json=True)["results"][0]
    table = read_latency_csv(copy / "latency.csv")
    slower = {call: 1000 * ns if call.weight_bits == 8 else ns for call, ns in table.layers.items()}
    board = rewrite(tmp_path / "board.csv", latency_csv(type(table)(slower, source="my board")))
    imported = command("latency", copy, "--table", board, json=True)
    assert (imported["source"], imported["networks"], imported["rest"]) == ("my board", 0, 0)
    again = command("search", copy, "--latency-budget", "60%", json=True)["results"][0]
    assert again["budget"] != first["budget"]
    run = sq_run(copy)
    assert run.table.total(run.space.decode(again["architecture"]), "latency") <= again["budget"]["latency"]
    status, _, err = command("latency", copy)
    assert status == 2
    assert "was measured elsewhere (my board)" in err


def test_a_filled_in_template_is_imported(command, tmp_path):
    out, blank = tmp_path / "run", tmp_path / "blank.csv"
    made = command("latency", "digits-blocks", "--template", blank, "--out", out, json=True)
    assert not out.exists()
    assert made["rows"] == len(calls(sq.load_space("digits-blocks")))
    status, _, err = command("latency", "digits-blocks", "--table", blank, "--out", out)
    assert status == 2
    assert "line 3: microseconds is ''; expected a number" in err
    lines = blank.read_text("utf-8").splitlines()
    rewrite(blank, "\n".join([*lines[:2], *(f"{line}{i + 1}" for i, line in enumerate(lines[2:]))]))
    found = command("latency", "digits-blocks", "--table", blank, "--out", out, json=True)
    assert found["layers"] == made["rows"]
    assert "not known" in found["accuracy_note"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", 2000], "--n 2000: expected 0 to 1,000 networks"),
        (["--table", "missing.csv"], "missing.csv: cannot be read (No such file"),
        (["--table", "a.csv", "--template", "b.csv"], "give either --table or --template"),
        (["--template", "missing/b.csv"], "cannot be written (No such file"),
    ],
)
def test_invalid_arguments(command, copy, arguments, message):
    status, _, err = command("latency", copy, *arguments)
    assert status == 2
    assert message in err


def test_a_damaged_table_is_reported(command, copy):
    text = (copy / "latency.csv").read_text("utf-8")
    (copy / "latency.csv").write_text(text.replace("layer", "lawer", 1), "utf-8")
    status, _, err = command("search", copy, "--latency-budget", "60%")
    assert status == 2
    assert "latency.csv" in err
    assert "checksum" in err


def test_a_latency_budget_needs_a_table(command, tmp_path):
    status, _, err = command("search", "digits-mixed", "--latency-budget", "1ms", "--out", tmp_path / "none", *TINY)
    assert status == 2
    assert "measure them with: spos-quant latency" in err


def test_a_bench_with_a_latency_budget_reports_the_error_of_the_table(command, copy):
    status, _, err = command("bench", copy, "--bits", "random:1", "--latency-budget", "60%", "--dry-run")
    assert status == 0
    assert "of 2 whole networks it is off by" in err


def test_windows_folded_into_the_batch_count_as_runs_of_a_layer():
    """Attention windows are folded into the batch: 4 windows of 3 tokens, each one call of the layer."""

    class Windows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(8, 5)

        def forward(self, x):
            return self.fc(x.reshape(-1, 3, 8)).reshape(len(x), -1)

    supernet = sq.quantize(Windows(), torch.rand(2, 4 * 3 * 8), bits=[(4, 4)], keep_float=[])
    (slot,) = supernet.space.layers
    (shape,) = slot.shapes
    assert (shape.runs, shape.geometry.input, shape.macs) == (4, (3, 8), 4 * 3 * 8 * 5)


def test_in_python(copy, tmp_path, capsys):
    supernet = sq.build(sq.load_space("digits-mixed"))
    with pytest.raises(ConfigError, match="no latencies"):
        supernet.sample(np.random.default_rng(0), 1, latency_budget="1ms")
    supernet.use_latency_table(copy / "latency.csv")
    assert "of 2 whole networks it is off by" in capsys.readouterr().err
    half = cost_range(supernet.table, "latency")[1] / 2
    for architecture in supernet.sample(np.random.default_rng(0), 20, latency_budget="50%"):
        assert 0 < supernet.cost(architecture)["latency"] <= half
    lines = (copy / "latency.csv").read_text("utf-8").splitlines()
    with pytest.raises(ConfigError, match="lacks 1 of"):
        supernet.use_latency_table(rewrite(tmp_path / "less.csv", "\n".join([*lines[:2], *lines[3:]])))
