"""The bench: one recipe for every configuration, each training done once, equal results after interruptions."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import spos_quant as sq
from spos_quant.cli import run as run_command
from spos_quant.cost.budget import parse_budget
from spos_quant.errors import BudgetError, ConfigError, ExportError, SpaceError
from spos_quant.export.onnx_file import measure_onnx
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages import bench
from spos_quant.stages.bench_entries import draw, parse_items
from spos_quant.stages.open_run import Options, open_existing, plan_run

QUICK = [
    *("--set", "train.iterations=4", "--set", "retrain.iterations=3", "--set", "search.population=3"),
    *("--set", "search.generations=1", "--set", "search.recalibration_images=64"),
]
BUDGET = ("--bitops-budget", "2.2M")
WORDS = "w2a2,random:1,best"
LIMIT = 2_200_000


@pytest.fixture(scope="module")
def benched(tmp_path_factory) -> Path:
    """A finished bench of two seeds, made once; tests must not change it."""
    path = tmp_path_factory.mktemp("bench") / "run"
    words = ["bench", "digits-mixed", "--bits", WORDS, *BUDGET, "--seeds", "2", "--out", str(path), *QUICK]
    assert run_command([*words, "--json"]) == 0
    return path


@pytest.fixture
def copy(benched, tmp_path) -> Path:
    run = tmp_path / "run"
    shutil.copytree(benched, run)
    return run


def again(command, run, words=WORDS, *more):
    return command("bench", run, "--bits", words, *BUDGET, "--seeds", 2, *more, json=True)


def trained(run: Path) -> dict[str, bytes]:
    found = [*run.glob("results/**/model.safetensors"), *run.glob("results/**/metrics.json")]
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def test_rows_are_measured_from_what_was_trained_and_exported(benched):
    rows = json.loads((benched / "bench.json").read_text())["rows"]
    assert [row["bits"] for row in rows] == ["w2a2", "random", "best"]
    for row in rows:
        folder = benched / "results" / row["key"]
        scores = []
        for seed, path in ((0, folder), (1, folder / "seed-1")):
            assert (path / "model.safetensors").exists()
            metrics = json.loads((path / "metrics.json").read_text())
            scores.append(metrics["test"]["top1"])
            assert row["runs"][seed] == {"seed": seed, **metrics}
        assert row["top1_mean"] == pytest.approx(np.mean(scores))
        assert row["top1_std"] == pytest.approx(np.std(scores, ddof=1))
        assert row["seeds"] == 2
        file = folder / "model-qcdq.onnx"
        cost = sq.measure(sq.load(benched, row["key"]), torch.zeros(1, 1, 8, 8))
        assert row["bitops"] == cost["bitops"] == measure_onnx(file)["bitops"]
        assert row["weight_bytes"] == cost["weight_bytes"]
        assert row["file_bytes"] == file.stat().st_size
        assert row["latency_ms"] > 0
        if row["budget"]:
            assert row["bitops"] <= row["budget"]["bitops"] == LIMIT
    assert rows[0]["supernet_top1"] is None
    search = json.loads((benched / "results" / "bitops-2.2M" / "search.json").read_text())
    assert rows[-1]["supernet_top1"] == search["score"]


def test_csv_and_page_equal_the_json(benched):
    rows = json.loads((benched / "bench.json").read_text())["rows"]
    table = list(csv.DictReader((benched / "bench.csv").open()))
    assert [(row["key"], float(row["top1_mean"])) for row in table] == [(r["key"], r["top1_mean"]) for r in rows]
    assert json.loads((benched / "report.json").read_text())["bench"]["rows"] == rows
    assert 'id="bench"' in (benched / "report.html").read_text()


def test_a_repeated_bench_trains_nothing_and_changes_nothing(copy, command):
    before = (copy / "bench.json").read_bytes()
    made = trained(copy)
    assert len(again(command, copy)["skipped"]) == 6
    assert trained(copy) == made
    assert (copy / "bench.json").read_bytes() == before  # latencies too: the files are the same


@pytest.mark.slow
def test_only_missing_models_are_retrained_with_any_number_of_workers(copy, command):
    """The first seed's model is that of `retrain`; a worker trains an identical one."""
    made = trained(copy)
    shutil.rmtree(copy / "results" / "random-bitops-2.2M-1" / "seed-1")
    shutil.rmtree(copy / "results" / "bits-w2a2")
    command("retrain", copy, "--bits", "w2a2", json=True)
    for name in ("model.safetensors", "metrics.json"):
        (copy / "results" / "bitops-2.2M" / name).unlink()
    skipped = again(command, copy, WORDS, "--workers", 2)["skipped"]
    lost = {"results/bits-w2a2", "results/bits-w2a2/seed-1", "results/bitops-2.2M"}
    lost.add("results/random-bitops-2.2M-1/seed-1")
    assert not lost & set(skipped)
    assert len(skipped) == 2
    assert trained(copy) == made


@pytest.mark.slow
def test_an_interrupted_bench_resumes(copy, command, interrupted_after):
    made = trained(copy)
    shutil.rmtree(copy / "results" / "bits-w2a2")
    with interrupted_after(1):
        assert command("bench", copy, "--bits", WORDS, *BUDGET, "--seeds", 2)[0] == 130
    assert (copy / "results" / "bits-w2a2" / "model.safetensors").exists()
    assert len(again(command, copy)["skipped"]) == 5
    assert trained(copy) == made


def test_equal_networks_share_their_models(copy, command):
    (bits,) = (copy / "results" / "bits-w2a2").glob("*.bits.json")
    same = copy.parent / "same.bits.json"
    text = json.loads(bits.read_text())
    del text["blocks"]  # the backbone's own, which is also the default
    same.write_text(json.dumps(text))
    rows = again(command, copy, f"w2a2,{same}")["rows"]
    assert [row["bits"] for row in rows] == ["w2a2", str(same)]
    assert {row["key"] for row in rows} == {"bits-w2a2"}
    assert rows[0]["runs"] == rows[1]["runs"]


def test_a_new_configuration_deletes_the_models_of_every_seed(copy):
    run = open_existing(str(copy))
    result = run.result("bits-w2a2")
    assert result.with_seed(run.seed) == result
    other = run.space.uniform_config(4, 4).to_json()
    result.write_bit_config(other)
    assert [path.name for path in result.folder.rglob("*") if path.suffix in (".safetensors", ".onnx")] == []
    assert read_bit_config(result.with_seed(1).bits_path).to_json() == other


def test_a_model_that_cannot_be_exported_keeps_its_row(copy, command, monkeypatch):
    (copy / "results" / "bits-w2a2" / "model-qcdq.onnx").unlink()

    def refused(*_, **__):
        raise ExportError("no such operator")

    monkeypatch.setattr(bench, "export_result", refused)
    first, second = again(command, copy, "w2a2,best")["rows"]
    assert (first["file_bytes"], first["latency_ms"], first["export_error"]) == (None, None, "no such operator")
    assert first["top1_mean"] > 0
    assert second["latency_ms"] > 0


def test_without_exports_a_model_is_scored_and_exported_later(copy, command):
    (scored,) = command("bench", copy, "--bits", "w4a4", "--no-export", json=True)["rows"]
    assert scored["file_bytes"] is scored["latency_ms"] is scored["export_error"] is None
    assert not list((copy / "results" / scored["key"]).glob("*.onnx"))
    made = command("bench", copy, "--bits", "w4a4", json=True)
    (row,) = made["rows"]
    assert len(made["skipped"]) == 1
    assert row["file_bytes"] > row["weight_bytes"]
    assert row["latency_ms"] > 0
    assert row["top1_mean"] == scored["top1_mean"]


@pytest.mark.slow
def test_bench_from_python_equals_the_command(copy, command):
    from_python = sq.bench(copy, ["w2a2", "best"], seeds=2, bitops_budget="2.2M")
    assert from_python["rows"] == again(command, copy, "w2a2,best")["rows"]
    with pytest.raises(TypeError, match="unexpected keyword 'bitops_budgt'"):
        sq.bench(copy, ["w2a2"], bitops_budgt="2M")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    return plan_run("digits-mixed", Options(out=tmp_path_factory.mktemp("planned") / "run")).run


def budget(run, text="2.2M"):
    return (parse_budget(text, "bitops", run.table),)


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        ([], ConfigError, "--bits names nothing; expected such as w2a2"),
        (["bst"], SpaceError, "'bst' is neither bits, .* did you mean 'best'"),
        (["random:0"], ConfigError, "expected a number of architectures to draw, such as random:3"),
        (["random:many"], ConfigError, "'random:many': expected a number"),
        (["w9a1"], SpaceError, "expected 1 to 8 bits each"),
        (["nofile.bits.json"], SpaceError, "neither bits, a bit configuration file"),
    ],
)
def test_wrong_words_are_explained(planned, texts, kind, message):
    with pytest.raises(kind, match=message):
        parse_items(planned, texts, [budget(planned)])


@pytest.mark.parametrize("word", ["best", "random:2", "evolution"])
def test_words_that_need_a_budget_say_so(planned, word):
    with pytest.raises(BudgetError, match=f"{word} needs a budget; give one or several, such as --bitops-budget 35%"):
        parse_items(planned, ["w2a2", word], [])


def test_draws_are_distinct_within_the_budget_and_share_a_prefix(planned):
    few, many = draw(planned, budget(planned), 3), draw(planned, budget(planned), 8)
    assert many[:3] == few
    assert len(set(many)) == 8
    assert max(planned.table.total(a) for a in many) <= LIMIT


def test_draws_end_if_few_architectures_keep_the_budget(planned, capfd):
    low = planned.table.total(planned.space.canonical([0] * len(planned.space.axes)))
    cheapest = budget(planned, "16384")
    found = draw(planned, cheapest, 1000) if low else []
    assert len(found) == len(set(found)) < 1000
    assert "different architectures were drawn within bitops-16384" in capfd.readouterr().err


def test_a_dry_run_counts_the_trainings_and_starts_nothing(benched, command):
    before = sorted(benched.rglob("*"))
    words = ["bench", benched, "--bits", "w2a2,random:4,best", *BUDGET, "--seeds", 3, "--dry-run"]
    stages = {stage["stage"]: stage["units"] for stage in command(*words, json=True)["stages"]}
    assert stages["search"] == 3
    assert stages["retrain (18 models)"] == 18 * 3
    ranked = command("rank", benched, "--n", 10, "--seeds", 2, "--dry-run", json=True)["stages"]
    assert {stage["stage"]: stage["units"] for stage in ranked} == {
        **{"train": 4, "evaluate": 10},
        "retrain (20 models)": 20 * 3,
    }
    assert sorted(benched.rglob("*")) == before


@pytest.mark.slow
def test_the_benchmark_of_bits_runs(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "cifar10_bits.py"
    words = ["--tiny", "--work", tmp_path / "work", "--bits", "random:1,best"]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("resnet20")]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        *[("resnet20-bits", "-", word) for word in ("float", "w2a2", "w3a3", "w4a4")],
        ("resnet20-bits", "160,432,128", "random"),
        ("resnet20-bits", "160,432,128", "best"),
        ("resnet20-bits-width", "160,432,128", "best"),
    ]
    assert (tmp_path / "work" / "resnet20-bits" / "report.html").exists()
