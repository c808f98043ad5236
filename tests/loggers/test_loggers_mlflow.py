from __future__ import annotations

import pytest
from logger_reading import row_points

from spos_quant.errors import RunError
from spos_quant.loggers import open_loggers


def log_all(target, steps, add: float = 0.0, metric: str = "loss") -> None:
    with open_loggers(("mlflow",), target) as log:
        for step in steps:
            log.log({metric: step + add}, step=step)


def points(run, metric: str = "loss"):
    return row_points([(p.step, {p.key: p.value}) for p in run.points], metric)


def test_the_run_shows_name_settings_and_status(target, mlflow_server):
    with open_loggers(("mlflow",), target()) as log:
        log.log({"loss": 1.0}, step=0)
        run = mlflow_server.only_run()
        assert run.info.status == "RUNNING"
    assert run.info.status == "FINISHED"
    assert run.info.name == "digits-mixed/supernet"
    assert run.params == {"seed": "1", "train.lr": "0.1", "train.clip": "None"}


def test_resuming_skips_points_that_the_run_has(target, mlflow_server):
    log_all(target(), range(6))
    with open_loggers(("mlflow",), target(3)) as log:
        assert mlflow_server.only_run().info.status == "RUNNING"
        for step in range(3, 8):
            log.log({"loss": step + 100.0, "new": 1.0}, step=step)
    assert points(mlflow_server.only_run()) == {step: [step] for step in range(6)} | {6: [106], 7: [107]}
    assert points(mlflow_server.only_run(), "new") == {step: [1] for step in range(3, 8)}


def test_a_run_resumes_with_other_settings(target, mlflow_server):
    """MLflow refuses to change a parameter, so the logger does not send parameters again."""
    log_all(target(), range(2))
    log_all(target(2, config={"seed": 2}), range(2, 4))
    assert points(mlflow_server.only_run()) == {step: [step] for step in range(4)}
    assert mlflow_server.only_run().params["seed"] == "1"


@pytest.mark.parametrize("gone", ["deleted", "unknown"])
def test_if_the_run_is_gone_a_new_one_starts(gone, target, mlflow_server):
    log_all(target(), range(3))
    if gone == "unknown":
        mlflow_server.runs = {"other": None}
    else:
        mlflow_server.only_run().info.lifecycle_stage = "deleted"
    log_all(target(1), range(1, 3))
    assert points(mlflow_server.runs["run1"]) == {1: [1], 2: [2]}
    log_all(target(3), range(3, 5))
    assert points(mlflow_server.runs["run1"]) == {step: [step] for step in range(1, 5)}


def test_without_settings_the_store_is_in_the_folder(target, mlflow_server):
    log_all(target(), range(1))
    folder = target().folder.resolve() / "mlflow"
    assert mlflow_server.asked == [f"sqlite:///{folder}/mlflow.db"]
    assert mlflow_server.experiments == {"spos-quant": (folder / "artifacts").as_uri()}


def test_mlflow_environment_variables_apply(target, mlflow_server, monkeypatch):
    mlflow_server.uri = "http://server"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    log_all(target(), range(1))
    assert mlflow_server.asked == ["http://server"]
    assert mlflow_server.experiments == {"mine": None}
    log_all(target(name="second"), range(1))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "17")
    log_all(target(name="third"), range(1))
    assert [run.experiment for run in mlflow_server.runs.values()] == ["id of mine", "id of mine", "17"]


def test_many_and_long_settings(target, mlflow_server):
    log_all(target(config={f"k{i}": i for i in range(250)} | {"long": "x" * 10_000, "a=b": 1, "a?b": 2}), range(1))
    params = mlflow_server.only_run().params
    assert len(params) == 252
    assert params["long"] == "x" * 500
    assert params["a_b"] == "2"  # MLflow refuses a batch with two parameters of one name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("val/top1", "val/top1"),
        ("a=b", "a_b"),
        ("../x", "x"),
        ("a//b/./c", "a/b/c"),
        ("/a", "a"),
        ("", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_that_mlflow_refuses_are_converted(name, shown, target, mlflow_server):
    log_all(target(), range(2), metric=name)
    log_all(target(1), range(1, 3), metric=name)
    assert points(mlflow_server.only_run(), shown) == {0: [0], 1: [1], 2: [2]}


def test_a_server_that_does_not_answer_is_named(target, mlflow_server):
    mlflow_server.down = True
    with pytest.raises(RunError, match=r"log=mlflow: no answer; see to the store that MLFLOW_TRACKING_URI names"):
        open_loggers(("mlflow",), target())
    mlflow_server.down = False
    log = open_loggers(("mlflow",), target())
    mlflow_server.down = True
    with pytest.raises(RunError, match="log=mlflow: no answer"):
        log.log({"loss": 1.0}, step=0)
    with pytest.raises(RunError, match="log=mlflow: no answer"):
        open_loggers(("mlflow",), target())


def test_a_folder_that_cannot_be_written_is_named(target, mlflow_server):
    target().folder.mkdir()
    (target().folder / "mlflow").write_text("")
    with pytest.raises(RunError, match="logs/mlflow: cannot be written"):
        open_loggers(("mlflow",), target())
