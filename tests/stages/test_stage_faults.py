"""Fault injection: kills, full disks, damaged files, interrupts and concurrent commands lose or corrupt nothing."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from stages_settings import BUDGET, TINY

from spos_quant.run_dir import claim, files

KEY = f"bitops-{BUDGET}"
JOB = ["run", "digits-mixed", "--bitops-budget", BUDGET, *TINY]
ROOT = Path(__file__).parents[2]


def script(name: str):
    """A script of `benchmarks/` as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


kills = script("kills")


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the finished run, to be damaged."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    return run


def unsearched(run: Path) -> None:
    shutil.rmtree(run / "results")
    for path in run.glob("evaluations.sqlite*"):
        path.unlink()


def evaluations(run: Path) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(run / "evaluations.sqlite")) as db:
        return db.execute("SELECT * FROM evaluations ORDER BY id").fetchall()


@pytest.mark.parametrize("writes", [[40], pytest.param([40, 25, 70], marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_files(tiny_run, tmp_path, writes):
    stages = []
    for count in writes:
        killed, where = kills.attempt([*JOB, "--out", "run"], tmp_path, ("writes", str(count)))
        assert killed
        stages.append(where)
    assert len(set(stages)) > 1 or len(writes) == 1, stages
    killed, _ = kills.attempt([*JOB, "--out", "run"], tmp_path, ("writes", "1000000"))
    assert not killed
    reference = kills.contents(tiny_run)
    assert len(reference) > 20
    assert set(kills.differences(reference, tmp_path / "run")) <= {"report.json"}  # it names its own paths


def test_ctrl_c_prints_how_to_resume_and_loses_no_step(tiny_run, tmp_path):
    command = [sys.executable, "-m", "spos_quant", "train", "digits-mixed", "--out", "run", *TINY]
    slow = [*command, "--set", "train.checkpoint_steps=1"]
    process = subprocess.Popen(slow, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith(f"interrupted; go on with: spos-quant {' '.join(slow[3:])}\n")
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "supernet.safetensors").exists()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "run" / "supernet.safetensors").read_bytes() == (tiny_run / "supernet.safetensors").read_bytes()
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_change_no_result(tiny_run, copy, command, workers):
    unsearched(copy)
    command("search", copy, "--bitops-budget", BUDGET, "--workers", workers, json=True)
    for name in ("digits-mixed.bits.json", "asked.json", "search.json"):
        assert (copy / "results" / KEY / name).read_bytes() == (tiny_run / "results" / KEY / name).read_bytes(), name
    assert evaluations(copy) == evaluations(tiny_run)


def test_a_second_process_is_refused_with_the_owner_of_the_lock(copy):
    with claim(copy):
        done = subprocess.run(
            [sys.executable, "-m", "spos_quant", "train", copy], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"is in use by process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_locked_run_can_be_read(copy, command):
    with claim(copy):
        for arguments in (("report", copy), ("verify", copy, "--result", KEY), ("cost", copy)):
            status, _, err = command(*arguments)
            assert status == 0, err


def test_a_full_disk_at_every_write_of_a_retraining(tiny_run, copy, command, monkeypatch):
    """Each attempt succeeds with one write more than the last one; the final files are the undisturbed ones."""
    expected = {p.name: p.read_bytes() for p in (copy / "results" / "bits-float").iterdir()}
    shutil.rmtree(copy / "results" / "bits-float")
    real, left = files._write, 0

    def write(handle: int, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.write(handle, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, data)

    monkeypatch.setattr(files, "_write", write)
    refused = 0
    for attempt in range(100):
        left = attempt
        status, _, err = command(*JOB, "--out", copy)
        if status == 0:
            break
        refused += 1
        assert status == 2
        assert "cannot be written (No space left on device); make room" in err
        assert "Traceback" not in err
    else:
        pytest.fail("never came to an end")
    assert refused > 5
    found = {p.name: p.read_bytes() for p in (copy / "results" / "bits-float").iterdir()}
    assert found == expected
    assert not list(copy.rglob(".*.tmp"))


ARTIFACTS = {
    "config.yaml": ("report", "{run}"),
    "environment.json": ("report", "{run}"),
    "supernet.safetensors": ("search", "{run}", "--bitops-budget", "50%"),
    f"results/{KEY}/digits-mixed.bits.json": ("report", "{run}"),
    f"results/{KEY}/search.json": ("report", "{run}"),
    f"results/{KEY}/asked.json": ("report", "{run}"),
    f"results/{KEY}/model.safetensors": ("verify", "{run}", "--result", KEY),
    f"results/{KEY}/metrics.json": ("evaluate", "{run}", "--result", KEY),
    f"results/{KEY}/exports.json": ("verify", "{run}", "--result", KEY),
    f"results/{KEY}/model-qcdq.onnx": ("predict", f"{{run}}/results/{KEY}/model-qcdq.onnx", "--data", "digits"),
}


@pytest.mark.parametrize("damage", [pytest.param("flip", marks=pytest.mark.slow), "truncate"])
def test_damage_is_reported_and_deleting_the_reported_file_repairs_the_run(tiny_run, copy, command, damage):
    before = kills.contents(copy)
    for name, user in ARTIFACTS.items():
        path = copy / name
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(
            data[:middle] if damage == "truncate" else data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        )
        arguments = [part.format(run=copy) for part in user or (*JOB, "--out", str(copy))]
        status, _, err = command(*arguments)
        assert status == 2, name
        assert f"{path}: is damaged" in err, name
        assert "delete it and repeat the command" in err
        path.write_bytes(data)
    for name in ARTIFACTS.keys() - {"supernet.safetensors"}:  # slow to train; covered by another test
        (copy / name).unlink()
    status, _, err = command(*JOB, "--out", copy)
    assert status == 0, err
    assert set(kills.differences(before, copy)) <= {"environment.json", "report.json"}


def test_a_damaged_log_is_reported(copy, command):
    path = copy / "evaluations.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    path.write_bytes(data[:2000])
    status, _, err = command("search", copy, "--bitops-budget", "50%")
    assert status == 2
    assert "evaluations.sqlite" in err
    assert "delete it" in err
    with contextlib.closing(sqlite3.connect(path)) as db:
        pass
    path.write_bytes(data)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    status, _, err = command("search", copy, "--bitops-budget", "50%")
    assert status == 2
    assert "has format 99; this version reads up to" in err


def test_another_winner_deletes_the_files_of_the_old_one(copy, command):
    """A resumed search may find another winner, which must not keep the model of the old one."""
    folder = copy / "results" / KEY
    search = json.loads((folder / "search.json").read_text())
    (folder / "checksums.sha256").unlink()
    (folder / "search.json").write_text(json.dumps({**search, "complete": False}))
    bits = json.loads((folder / "digits-mixed.bits.json").read_text())
    layer = next(name for name, value in bits["layers"].items() if value["weight_bits"])
    bits["layers"][layer]["weight_bits"] = 9 - bits["layers"][layer]["weight_bits"]
    (folder / "digits-mixed.bits.json").write_text(json.dumps(bits))
    command("search", copy, "--bitops-budget", BUDGET, json=True)
    assert sorted(p.name for p in folder.iterdir()) == [
        "asked.json",
        "checksums.sha256",
        "digits-mixed.bits.json",
        "search.json",
    ]


def test_result_names_cannot_leave_the_run_directory(copy, command, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for key in ("../evil", "/etc", "a/../..", ""):
        status, _, err = command("evaluate", copy, "--result", key)
        assert status == 2
        assert "has no result" in err
    assert sorted(tmp_path.rglob("*")) == before
