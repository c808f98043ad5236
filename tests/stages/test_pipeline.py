"""The main job end to end in a tiny setting; its artifacts are checked through the public interface."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch
from stages_settings import BUDGET, TINY

import spos_quant as sq
from spos_quant.backbones.build import load_space
from spos_quant.data import load_data
from spos_quant.export.onnx_file import measure_onnx
from spos_quant.space.bit_config import read_bit_config

KEY = f"bitops-{BUDGET}"
LIMIT = 2_200_000


def test_all_artifacts_are_written(tiny_run):
    names = ["config.yaml", "environment.json", "supernet.safetensors", "evaluations.sqlite"]
    for name in (*names, "report.html", "report.json", "evaluations.csv", "front.csv"):
        assert (tiny_run / name).stat().st_size > 0, name
    for name in ("digits-mixed.bits.json", "model.safetensors", "metrics.json", "model-qcdq.onnx"):
        assert (tiny_run / "results" / KEY / name).exists(), name
    assert not [path for path in tiny_run.rglob(".*") if path.is_file()], "temporary files were left behind"


def test_result_is_within_the_budget_measured_three_ways(tiny_run):
    bits = read_bit_config(tiny_run / "results" / KEY / "digits-mixed.bits.json")
    space = load_space("digits-mixed")
    by_table = sq.build(space).cost(space.architecture(bits))["bitops"]
    model = sq.load(tiny_run, KEY)
    by_model = sq.measure(model, torch.zeros(1, 1, 8, 8))["bitops"]
    by_file = measure_onnx(tiny_run / "results" / KEY / "model-qcdq.onnx")["bitops"]
    assert bits.cost["bitops"] == by_table == by_model == by_file <= LIMIT


def test_nothing_evaluated_exceeds_the_budget_except_the_baselines(tiny_run):
    space = load_space("digits-mixed")
    asked = json.loads((tiny_run / "results" / KEY / "asked.json").read_text())["architectures"]
    supernet = sq.build(space)
    assert len(asked) == len(set(asked)) == 12
    assert max(supernet.table.totals([space.decode(a) for a in asked])) <= LIMIT


def test_file_and_model_agree_on_the_test_split(tiny_run, command):
    ours = command("evaluate", tiny_run, "--result", KEY, json=True)
    file = tiny_run / "results" / KEY / "model-qcdq.onnx"
    theirs = command("predict", file, "--data", "digits", json=True)
    assert theirs["top1"] == ours["top1"]
    assert theirs["n"] == ours["n"] == 359
    assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-5)
    data = load_data("digits", input=(1, 8, 8), classes=10, seed=0)
    assert len(data.test) == 359


def test_model_is_a_plain_module_with_the_reported_accuracy(tiny_run):
    model = sq.load(tiny_run, KEY)
    data = load_data("digits", input=(1, 8, 8), classes=10, seed=0)
    x = data.preprocessing.normalise(np.stack([data.test.image(i) for i in range(len(data.test))]))
    top1 = (model(torch.from_numpy(x)).argmax(1).numpy() == data.test.labels).mean()
    metrics = json.loads((tiny_run / "results" / KEY / "metrics.json").read_text())
    assert top1 == pytest.approx(metrics["test"]["top1"])


def test_verify_measures_every_file(tiny_run, command):
    result = command("verify", tiny_run, "--result", KEY, json=True)
    (file,) = result["files"]
    assert result["ok"]
    assert file["budget_kept"] is True
    assert file["bitops"] == result["model"]["bitops"] <= LIMIT
    assert file["bytes"] == (tiny_run / "results" / KEY / "model-qcdq.onnx").stat().st_size


def test_verify_notices_a_file_of_another_model(tiny_run, command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    other = next(p for p in (run / "results").glob("bits-w*/model-qcdq.onnx"))
    shutil.copy(other, run / "results" / KEY / "model-qcdq.onnx")
    status, _, err = command("verify", run, "--result", KEY)
    assert status == 2
    assert f"{KEY}/model-qcdq.onnx: is damaged or was changed" in err
    (run / "results" / KEY / "checksums.sha256").unlink()
    status, _, err = command("verify", run, "--result", KEY)
    assert status == 1
    assert "differs" in err


def test_table_has_float_uniform_and_searched(tiny_run, command):
    rows = command("run", "digits-mixed", "--bitops-budget", BUDGET, "--out", tiny_run, json=True)["rows"]
    assert [row["model"] for row in rows] == ["float", rows[1]["key"].removeprefix("bits-"), "searched"]
    floating, uniform, searched = rows
    assert floating["bitops"] is None
    assert uniform["bitops"] >= searched["bitops"]
    assert floating["weight_bytes"] > uniform["weight_bytes"]


def test_a_repeated_command_changes_nothing(tiny_run, command):
    before = {
        path: path.read_bytes() for path in tiny_run.rglob("*") if path.suffix in (".safetensors", ".onnx", ".json")
    }
    result = command("run", "digits-mixed", "--bitops-budget", BUDGET, "--out", tiny_run, json=True)
    assert set(result["skipped"]) >= {"supernet", KEY, "bits-float"}
    for path, content in before.items():
        assert path.read_bytes() == content, path


def test_same_seed_gives_the_same_files_twice(tiny_run, command, tmp_path):
    again = tmp_path / "again"
    command("search", "digits-mixed", "--bitops-budget", BUDGET, "--out", again, *TINY, json=True)
    for name in ("supernet.safetensors", f"results/{KEY}/digits-mixed.bits.json", f"results/{KEY}/asked.json"):
        assert (again / name).read_bytes() == (tiny_run / name).read_bytes(), name


@pytest.mark.slow
def test_another_seed_gives_another_supernet(tiny_run, command, tmp_path):
    other = tmp_path / "other"
    command("train", "digits-mixed", "--seed", "1", "--out", other, *TINY, json=True)
    assert (other / "supernet.safetensors").read_bytes() != (tiny_run / "supernet.safetensors").read_bytes()


def test_an_interrupted_search_resumes_from_its_log(tiny_run, command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "results")
    log = run / "evaluations.sqlite"
    for side in ("-wal", "-shm"):
        (run / f"evaluations.sqlite{side}").unlink(missing_ok=True)
    with sqlite3.connect(log) as db:
        kept = db.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0] // 2
        db.execute("DELETE FROM evaluations WHERE id > ?", (kept,))
    command("search", run, "--bitops-budget", BUDGET, json=True)
    for name in ("digits-mixed.bits.json", "asked.json"):
        assert (run / "results" / KEY / name).read_bytes() == (tiny_run / "results" / KEY / name).read_bytes()
    assert command("report", run, json=True)["evaluations"] == len(
        json.loads((tiny_run / "report.json").read_text())["evaluations"]
    )


def test_a_time_limit_ends_a_search_early_and_the_next_command_completes_it(tiny_run, command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    first = command("search", run, "--bitops-budget", "30%", "--timeout", "0.001s", json=True)["results"][0]
    assert not first["complete"]
    assert first["evaluations"] == 1
    second = command("search", run, "--bitops-budget", "30%", json=True)["results"][0]
    assert second["complete"]
    assert second["evaluations"] == 12


def test_several_budgets_share_supernet_and_log(tiny_run, command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    results = command(
        "search", run, "--bitops-budget", "1M", "--bitops-budget", BUDGET, "--weight-bytes-budget", "9K", json=True
    )["results"]
    assert [r["key"] for r in results] == ["bitops-1M+weight_bytes-9K", f"bitops-{BUDGET}+weight_bytes-9K"]
    space = load_space("digits-mixed")
    supernet = sq.build(space)
    for result, limit in zip(results, (1_000_000, LIMIT), strict=True):
        cost = supernet.cost(
            space.architecture(read_bit_config(run / "results" / result["key"] / "digits-mixed.bits.json"))
        )
        assert cost["bitops"] <= limit
        assert cost["weight_bytes"] <= 9_000
    status, _, err = command("evaluate", run)
    assert status == 2
    assert "name one with --result" in err


def test_accuracy_drop_finds_the_cheapest_architecture_within_it(tiny_run, command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (result,) = command("search", run, "--max-accuracy-drop", "0.9", json=True)["results"]
    asked = json.loads((run / "results" / "drop-0.9" / "asked.json").read_text())["architectures"]
    space = load_space("digits-mixed")
    costs = sq.build(space).table.totals([space.decode(a) for a in asked])
    assert result["bitops"] == min(costs)  # every score is within this drop, so the cheapest wins


def test_an_accuracy_drop_of_zero(tiny_run, command, tmp_path):
    """The most expensive architecture wins if no cheaper one scores as high."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (result,) = command("search", run, "--max-accuracy-drop", "0", json=True)["results"]
    space = load_space("digits-mixed")
    supernet = sq.build(space)
    command("report", run, json=True)
    evaluations = json.loads((run / "report.json").read_text())["evaluations"]
    most_expensive = max(evaluations, key=lambda e: e["cost"])
    assert most_expensive["cost"] == 295_436_288
    assert result["score"] >= most_expensive["score"]
    assert result["bitops"] == supernet.cost(space.decode(result["architecture"]))["bitops"] <= most_expensive["cost"]


def test_all_evaluations_are_written_and_fronts_include_all(tiny_run):
    data = json.loads((tiny_run / "report.json").read_text())
    space = load_space("digits-mixed")
    supernet = sq.build(space)
    items = data["evaluations"]
    for item in items[::5]:
        cost = supernet.cost(space.decode(item["architecture"]))
        assert item["costs"] == {m: cost[m] for m in ("bitops", "macs", "params", "weight_bytes")}
    assert data["front"] == data["fronts"]["bitops"]["front"]
    for metric, found in data["fronts"].items():
        points = [(item["costs"][metric], item["score"]) for item in items]
        kept = {p for p in points if not any(o != p and o[0] <= p[0] and o[1] >= p[1] for o in points)}
        assert [points[i] for i in found["front"]] == sorted(kept)
        assert 0 <= found["hypervolume"] <= 1
        assert found["reference"]["score"] == 0.1
    rows = list(csv.DictReader((tiny_run / "front.csv").open()))
    assert len(rows) == sum(len(found["front"]) for found in data["fronts"].values())
    assert len(list(csv.DictReader((tiny_run / "evaluations.csv").open()))) == len(items)


def test_random_search_has_its_own_result(tiny_run, command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (result,) = command("search", run, "--bitops-budget", BUDGET, "--searcher", "random", json=True)["results"]
    assert result["key"] == f"{KEY}-random"
    assert result["bitops"] <= LIMIT


def test_a_given_configuration_is_retrained_whether_or_not_the_space_offers_it(tiny_run, command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    assert command("retrain", run, "--bits", "w5a6", json=True)["key"] == "bits-w5a6"
    assert command("cost", "digits-mixed", "--uniform", "w5a6", json=True)["architecture"] is None
    model = sq.load(run, "bits-w5a6")
    cost = sq.measure(model, torch.zeros(1, 1, 8, 8))
    assert {(x["weight_bits"], x["act_bits"]) for x in cost["layers"]} == {(None, None), (5, 6)}
    assert cost["bitops"] == command("cost", "digits-mixed", "--uniform", "w5a6", json=True)["bitops"]
    exported = command("export", run, "--result", "bits-w5a6", json=True)
    assert exported["agreement"] == 1.0


def test_predict_loads_neither_torch_nor_brevitas(tiny_run):
    code = (
        "import sys\nfrom spos_quant.cli import run\n"
        f"assert run(['predict', r'{tiny_run}/results/{KEY}/model-qcdq.onnx', '--data', 'digits']) == 0\n"
        "sys.exit('torch' in sys.modules or 'brevitas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_predict_classifies_images(tiny_run, command, tmp_path):
    from PIL import Image

    data = load_data("digits", input=(1, 8, 8), classes=10, seed=0)
    paths = []
    for i in range(8):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(data.test.image(i)[:, :, 0]).save(paths[-1])
    file = tiny_run / "results" / KEY / "model-qcdq.onnx"
    predictions = command("predict", file, *paths, json=True)["predictions"]
    model = sq.load(tiny_run, KEY)
    x = data.preprocessing.normalise(np.stack([data.test.image(i) for i in range(8)]))
    expected = [data.classes[i] for i in model(torch.from_numpy(x)).argmax(1).tolist()]
    assert [p["class"] for p in predictions] == expected
    assert all(0 < p["probability"] <= 1 for p in predictions)


def test_full_precision_space_end_to_end(command, tmp_path):
    run = tmp_path / "blocks"
    result = command("run", "digits-blocks", "--macs-budget", "30%", "--out", run, *TINY, json=True)
    assert [row["model"] for row in result["rows"]] == ["float", "searched"]
    key = result["results"][0]["key"]
    assert result["results"][0]["bitops"] is None
    model = sq.load(run, key)
    assert sq.measure(model, torch.zeros(1, 1, 8, 8))["macs"] <= 0.3 * 4_625_728
    assert (run / "results" / key / "model.onnx").exists()
    assert command("verify", run, "--result", key, json=True)["ok"]


def test_a_search_by_loss_finds_the_least_loss(tiny_run, tmp_path, command):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    found = command("search", run, "--bitops-budget", BUDGET, "--set", "search.rank_by=loss", json=True)["results"][0]
    with sqlite3.connect(run / "evaluations.sqlite") as log:
        losses = dict(log.execute("SELECT architecture, loss FROM evaluations").fetchall())
    result = run / "results" / KEY
    asked = json.loads((result / "asked.json").read_text())["architectures"]
    chosen = json.loads((result / "search.json").read_text())
    assert found["bitops"] <= LIMIT
    assert losses[chosen["architecture"]] == chosen["loss"] == min(losses[text] for text in asked)
    assert len({losses[text] for text in asked}) > 1
