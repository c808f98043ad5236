"""Tests with the real W&B (offline) and the real MLflow (local store): `pytest -m slow tests/loggers`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import pytest
from logger_reading import row_points, wandb_rows

from spos_quant.loggers import open_loggers

pytestmark = pytest.mark.slow

KILLED = """
import math, os, signal, sys
from pathlib import Path
from spos_quant.loggers import LogTarget, open_loggers
target = LogTarget(Path(sys.argv[2]), "digits-mixed", "supernet", {"seed": 1, "train": {"lr": 0.1}}, int(sys.argv[3]))
log = open_loggers((sys.argv[1],), target)
for step in range(int(sys.argv[3]), 1000):
    log.log({"loss": step + float(sys.argv[5]), "odd": math.nan if step % 2 else math.inf}, step=step)
    if step == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(logger, target, last: int, add: float = 0) -> None:
    """Logs in another process that is killed after a step."""
    arguments = [logger, str(target.folder), str(target.from_step), str(last), str(add)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


@pytest.fixture
def wandb_folders(target, monkeypatch, tmp_path):
    """The rows of each of W&B's folders, oldest first."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def read():
        paths = sorted(target().folder.glob("wandb/offline-run-*/*.wandb"))
        return [path.stem.removeprefix("run-") for path in paths], [wandb_rows(path) for path in paths]

    return read


def wandb_log(target, steps, add: float = 0.0) -> None:
    """Logs in another process, as a resumed run does. Sleeps, because W&B's folder names differ by the second."""
    code = (
        "import sys, json; from pathlib import Path; from spos_quant.loggers import LogTarget, open_loggers\n"
        "folder, start, steps, add = json.loads(sys.argv[1])\n"
        "with open_loggers(('wandb',), LogTarget(Path(folder), 'digits-mixed', 'supernet', {}, start)) as log:\n"
        "    for step in steps: log.log({'loss': step + add}, step=step)\n"
    )
    time.sleep(1.1)
    arguments = json.dumps([str(target.folder), target.from_step, list(steps), add])
    subprocess.run([sys.executable, "-c", code, arguments], check=True, capture_output=True)


def test_wandb_offline_the_last_folder_is_complete(target, wandb_folders):
    wandb_log(target(), range(6))
    wandb_log(target(3), range(3, 8), add=100)
    ids, (first, second) = wandb_folders()
    assert ids[0] == ids[1]
    assert row_points(first, "loss") == {step: [step] for step in range(6)}
    expected = {step: [step] for step in range(3)} | {step: [step + 100] for step in range(3, 8)}
    assert row_points(second, "loss") == expected


def test_wandb_offline_after_a_kill(target, wandb_folders):
    killed("wandb", target(), last=500)
    wandb_log(target(400), range(400, 420), add=1000)
    _, folders = wandb_folders()
    expected = {step: [step] for step in range(400)} | {step: [step + 1000] for step in range(400, 420)}
    assert row_points(folders[-1], "loss") == expected
    odd = row_points(folders[-1], "odd")
    assert list(odd) == list(range(400))
    assert all(math.isnan(odd[s][0]) if s % 2 else odd[s] == [math.inf] for s in odd)


def test_wandb_writes_only_into_the_folder(target, wandb_folders, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with open_loggers(("wandb",), target(name="../../odd #?%:name" + "x" * 200)) as log:
        log.log({"loss": 1.0}, step=0)
    assert not list((tmp_path / "here").iterdir())
    _, (rows,) = wandb_folders()
    assert row_points(rows, "loss") == {0: [1]}


def test_wandb_disabled_logs_nothing(target, wandb_folders, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb_log(target(), range(3))
    wandb_log(target(2), range(2, 5))
    assert wandb_folders() == ([], [])


@pytest.fixture(params=["default", "sqlite", "file"])
def mlflow_store(request, target, monkeypatch, tmp_path):
    """A local store: the one in the logs folder, a database elsewhere, or a folder of files."""
    pytest.importorskip("mlflow")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"sqlite:///{target().folder.resolve()}/mlflow/mlflow.db"
    if request.param != "default":
        uri = f"sqlite:///{tmp_path}/elsewhere.db" if request.param == "sqlite" else (tmp_path / "elsewhere").as_uri()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    yield uri
    assert not list((tmp_path / "here").iterdir())


def mlflow_run(uri):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "spos-quant"]
    (run,) = client.search_runs([experiment.experiment_id])
    keys = run.data.metrics
    return run, {k: [(p.step, {k: p.value}) for p in client.get_metric_history(run.info.run_id, k)] for k in keys}


def test_mlflow_after_a_kill(target, mlflow_store):
    killed("mlflow", target(), last=30)
    run, _ = mlflow_run(mlflow_store)
    assert run.info.status == "RUNNING"
    with open_loggers(("mlflow",), target(20, config={"seed": 2})) as log:
        for step in range(20, 35):
            log.log({"loss": step + 100.0, "a=b": 1.0}, step=step)
    run, points = mlflow_run(mlflow_store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits-mixed/supernet"
    assert run.data.params == {"seed": "1", "train.lr": "0.1"}
    expected = {step: [step] for step in range(31)} | {step: [step + 100] for step in range(31, 35)}
    assert row_points(points["loss"], "loss") == expected
    assert row_points(points["a_b"], "a_b") == {step: [1.0] for step in range(20, 35)}
    odd = row_points(points["odd"], "odd")
    assert list(odd) == list(range(31))
    assert all(math.isnan(odd[s][0]) if s % 2 else odd[s][0] >= 1.7e308 for s in odd)


def test_mlflow_keeps_points_that_are_sent_twice(target, mlflow_store):
    """The reason why the logger does not send points again."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    with open_loggers(("mlflow",), target()) as log:
        log.log({"loss": 1.0}, step=0)
    run, _ = mlflow_run(mlflow_store)
    MlflowClient(tracking_uri=mlflow_store).log_batch(run.info.run_id, metrics=[Metric("loss", 1.0, 1, 0)])
    _, points = mlflow_run(mlflow_store)
    assert row_points(points["loss"], "loss") == {0: [1.0, 1.0]}


def test_mlflow_starts_a_new_run_if_the_run_was_deleted(target, mlflow_store):
    from mlflow import MlflowClient

    with open_loggers(("mlflow",), target()) as log:
        log.log({"loss": 1.0}, step=0)
    first, _ = mlflow_run(mlflow_store)
    MlflowClient(tracking_uri=mlflow_store).delete_run(first.info.run_id)
    with open_loggers(("mlflow",), target(1)) as log:
        log.log({"loss": 2.0}, step=1)
    second, points = mlflow_run(mlflow_store)
    assert second.info.run_id != first.info.run_id
    assert row_points(points["loss"], "loss") == {1: [2.0]}


def test_mlflow_takes_odd_names(target, mlflow_store):
    names = ["../x", "a//b/./c", "/b", "", "x" * 300, "ü", "val/top1", "a:b", "a\nb"]
    with open_loggers(("mlflow",), target(config=dict.fromkeys(names, "x" * 7000))) as log:
        for step in range(2):
            log.log(dict.fromkeys(names, 1.0), step=step)
    _, points = mlflow_run(mlflow_store)
    assert set(points) == {"x", "a/b/c", "b", "_", "x" * 250, "val/top1", "a_b"}
