"""The model card beside exported files, and `verify` of every format."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import onnx
import pytest

from spos_quant.export.onnx_file import METADATA_KEY

KEY = "bitops-2.2M"


@pytest.fixture
def copy(tiny_run, tmp_path) -> Path:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    return run


def rows(card: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    table = re.search(r"(?:^\|.*\n)+", card.partition(f"## {heading}\n")[2], re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]


def test_the_card_equals_the_artifacts(tiny_run):
    for folder in (tiny_run / "results").iterdir():
        card = (folder / "model-card.md").read_text("utf-8")
        metrics = json.loads((folder / "metrics.json").read_text())
        assert [row[0] for row in rows(card, "Accuracy")] == ["search-val", "test"]
        assert float(rows(card, "Accuracy")[1][1]) == pytest.approx(metrics["test"]["top1"], abs=1e-4)
        assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
        for item in json.loads((folder / "exports.json").read_text()):
            (row,) = (row for row in rows(card, "Files") if row[0] == f"`{item['path']}`")
            assert row[2] == f"{item['bytes']:,}"
            assert row[5].strip("`") == hashlib.sha256((folder / item["path"]).read_bytes()).hexdigest()
        config = json.loads((folder / "digits-mixed.bits.json").read_text())
        found = {row[0].strip("`"): row[2:4] for row in rows(card, "Layers")}
        for name, bits in config["layers"].items():
            assert found[name] == ["float" if b is None else str(b) for b in (bits["weight_bits"], bits["act_bits"])]
        assert "bitops/1" in card
        assert ["seed of the run", "0"] in rows(card, "Origin")
        assert any(row[0] == "brevitas" for row in rows(card, "Origin"))
        assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d", card), "a date or a time"
        assert str(tiny_run) not in card


def test_the_card_shows_budget_and_cost(tiny_run):
    card = (tiny_run / "results" / KEY / "model-card.md").read_text("utf-8")
    (row,) = (row for row in rows(card, "Cost of one image") if row[0] == "bitops")
    assert row[2] == "2,200,000"
    assert int(row[1].replace(",", "")) <= 2_200_000


def test_every_format_is_verified_and_on_the_card(copy, command):
    pytest.importorskip("qonnx")
    before = (copy / "results" / KEY / "model-card.md").read_bytes()
    command("export", copy, "--result", KEY, "--format", "onnx-qcdq", json=True)
    assert (copy / "results" / KEY / "model-card.md").read_bytes() == before, "the same files, another card"
    for form in ("onnx-packed", "qonnx"):
        command("export", copy, "--result", KEY, "--format", form, json=True)
    found = command("verify", copy, "--result", KEY, json=True)
    assert found["ok"]
    assert [file["format"] for file in found["files"]] == ["onnx-packed", "onnx-qcdq", "qonnx"]
    for file in found["files"]:
        assert file["bitops"] == found["model"]["bitops"]
        assert file["weight_bytes"] == found["model"]["weight_bytes"]
        assert file["top1"] == pytest.approx(found["model"]["top1"], abs=0.01)
        assert sum(file["bytes_by_type"].values()) == file["bytes"] == Path(file["path"]).stat().st_size
        assert file["budget_kept"] is True
    packed, qcdq, _ = found["files"]
    assert packed["bytes"] < qcdq["bytes"]
    assert {row[1] for row in rows((copy / "results" / KEY / "model-card.md").read_text(), "Files")} == {
        "onnx-packed", "onnx-qcdq", "qonnx",
    }  # fmt: skip
    status, out, _ = command("verify", copy, "--result", KEY)
    assert status == 0
    assert "bytes of onnx-packed: FLOAT" in out


def test_verify_uses_the_preprocessing_of_the_file(copy, command):
    """A wrong mean in the file's metadata changes the predictions, although the graph is right."""
    path = copy / "results" / KEY / "model-qcdq.onnx"
    (copy / "results" / KEY / "checksums.sha256").unlink()
    model = onnx.load(path)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    metadata = json.loads(entry.value)
    metadata["preprocessing"]["mean"] = [x + 1.5 for x in metadata["preprocessing"]["mean"]]
    entry.value = json.dumps(metadata)
    onnx.save(model, path)
    status, out, err = command("verify", copy, "--result", KEY)
    assert status == 1
    assert "differs" in err
    assert "100.00 %" not in out


def test_a_broken_budget_ends_with_status_1(copy, command):
    path = copy / "results" / KEY / "search.json"
    (copy / "results" / KEY / "checksums.sha256").unlink()
    search = json.loads(path.read_text())
    search["budget"]["bitops"] = 1_000
    path.write_text(json.dumps(search))
    status, out, err = command("verify", copy, "--result", KEY)
    assert status == 1
    assert "NO" in out
    assert "breaks the budget" in err
