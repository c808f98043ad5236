"""Tests that every logger must pass. To add a logger, add a way to read back what it logged."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from logger_reading import csv_points, row_points, tensorboard_points

from spos_quant.loggers import loggers, open_loggers

NAMES = ["csv", "tensorboard", "wandb", "mlflow"]
BIG = 1.7976931348623157e308


@pytest.fixture
def points(target, wandb_server, mlflow_server):
    """Reads `{step: [values of all points at this step]}` by logger and metric."""

    def read(logger: str, metric: str = "loss"):
        folder = target().folder
        if logger == "csv":
            return csv_points(folder / "supernet.csv", metric)
        if logger == "tensorboard":
            return tensorboard_points(folder / "tensorboard" / "supernet", metric)
        if logger == "wandb":
            return row_points(wandb_server.only_run(), metric)
        return row_points([(p.step, {p.key: p.value}) for p in mlflow_server.only_run().points], metric)

    return read


def value(step: int) -> float:
    """The same value for a repeated step, as in a reproducible training; exact in float32."""
    return 1 / 2 ** (step % 7) + step


def log_all(name, target, steps, close: bool = True):
    log = open_loggers((name,), target)
    for step in steps:
        log.log({"loss": value(step), "top1": 0.5}, step=step)
    if close:
        log.close()
    return log


def test_all_built_in_loggers_are_tested():
    assert set(NAMES) == {name for name in loggers if loggers[name].__module__.startswith("spos_quant.")}


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_stored_once(name, target, points):
    log_all(name, target(), range(1, 6))
    assert points(name) == {step: [value(step)] for step in range(1, 6)}
    assert points(name, "top1") == {step: [0.5] for step in range(1, 6)}


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "abandoned"])
@pytest.mark.parametrize("from_step", [0, 1, 4, 6])
@pytest.mark.parametrize("name", NAMES)
def test_after_resuming_every_step_is_stored_once(name, from_step, closed, target, points):
    before = log_all(name, target(), range(6), close=closed)
    log_all(name, target(from_step), range(from_step, 9))
    assert points(name) == {step: [value(step)] for step in range(9)}
    del before  # an abandoned logger stays open until here, as after a kill


@pytest.mark.parametrize("name", NAMES)
def test_resuming_twice(name, target, points):
    log_all(name, target(), range(6))
    log_all(name, target(2), range(2, 4))
    log_all(name, target(3), range(3, 10))
    assert points(name) == {step: [value(step)] for step in range(10)}


@pytest.mark.parametrize("name", NAMES)
def test_steps_may_be_far_apart(name, target, points):
    log_all(name, target(), [10, 20, 30])
    log_all(name, target(25), [30, 40])
    assert points(name) == {step: [value(step)] for step in (10, 20, 30, 40)}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_appear_later(name, target, points):
    with open_loggers((name,), target()) as log:
        log.log({"loss": 1.0}, step=0)
        log.log({"accuracy": 0.5}, step=1)
        log.log({"loss": 2.0, "accuracy": 0.25}, step=2)
    assert points(name) == {0: [1.0], 2: [2.0]}
    assert points(name, "accuracy") == {1: [0.5], 2: [0.25]}


@pytest.mark.parametrize("name", NAMES)
def test_closing_twice_is_fine(name, target, points):
    logger = loggers[name](target())
    logger.log({"loss": 1.0}, 0)
    logger.close()
    logger.close()
    assert points(name) == {0: [1.0]}


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_finite_survive(name, target, points):
    with open_loggers((name,), target()) as log:
        for step, odd in enumerate([1.0, math.nan, math.inf, -math.inf, 2.0]):
            log.log({"loss": odd}, step=step)
    (first,), (nan,), (up,), (down,), (last,) = points(name).values()
    assert (first, last) == (1.0, 2.0)
    assert math.isnan(nan)
    assert up >= BIG  # MLflow's databases store infinity as the largest double
    assert down <= -BIG


@pytest.mark.parametrize("name", NAMES)
def test_curves_do_not_mix(name, target, points, wandb_server, mlflow_server):
    log_all(name, target(), range(3))
    seen = points(name)
    with open_loggers((name,), target(name="retrain")) as log:
        log.log({"loss": 7.0}, step=0)
    if name in ("csv", "tensorboard"):
        assert points(name) == seen
    else:
        runs = wandb_server.runs if name == "wandb" else mlflow_server.runs
        assert len(runs) == 2


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_curves_stay_in_the_folder(name, target, tmp_path, monkeypatch, wandb_server, mlflow_server):
    monkeypatch.chdir(tmp_path)
    for odd in ["../../out", "/", "search-bitops-2.2M", "a b#c?d%e:f"]:
        log_all(name, target(name=odd), range(2))
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


KILLED = """
import os, signal, sys
from pathlib import Path
from spos_quant.loggers import LogTarget, open_loggers
log = open_loggers(("csv", "tensorboard"), LogTarget(Path(sys.argv[1]), "digits-mixed", "supernet"))
for step in range(100):
    log.log({"loss": float(step)}, step=step)
    if step == 57:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_nothing_that_was_logged(target, points):
    done = subprocess.run([sys.executable, "-c", KILLED, str(target().folder)], check=False)
    assert done.returncode == -9
    for name in ("csv", "tensorboard"):
        assert points(name) == {step: [float(step)] for step in range(58)}
    with open_loggers(("csv", "tensorboard"), target(50)) as log:
        for step in range(50, 60):
            log.log({"loss": step + 1000.0}, step=step)
    expected = {step: [float(step)] for step in range(50)} | {step: [step + 1000.0] for step in range(50, 60)}
    for name in ("csv", "tensorboard"):
        assert points(name) == expected
