from __future__ import annotations

import sys

import pytest
from logger_fakes import MlflowServer, WandbServer

from spos_quant.loggers import LogTarget


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def target(tmp_path):
    """A factory of targets in one logs folder."""

    def make(from_step: int = 0, name: str = "supernet", config=None) -> LogTarget:
        settings = {"seed": 1, "train": {"lr": 0.1, "clip": None}} if config is None else config
        return LogTarget(tmp_path / "logs", "digits-mixed", name, settings, from_step)

    return make


@pytest.fixture
def wandb_server(monkeypatch):
    server = WandbServer()
    monkeypatch.setitem(sys.modules, "wandb", server.module())
    return server


@pytest.fixture
def mlflow_server(monkeypatch):
    server = MlflowServer()
    for name, module in server.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return server
