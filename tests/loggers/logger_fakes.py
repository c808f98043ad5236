"""Fakes of `wandb` and `mlflow`, with the parts of the API that the loggers use.

The fakes are as strict as the real services: W&B ignores a step that does not increase, MLflow stores every point and
refuses some names. `test_loggers_real.py` tests the loggers with the real packages.
"""

from __future__ import annotations

import math
import re
import types
from dataclasses import dataclass, field
from typing import Any


@dataclass
class WandbServer:
    """Runs by id. Offline, each process starts an empty run, because `wandb` writes one folder per process."""

    offline: bool = False
    runs: dict[str, list[tuple[int, dict[str, float]]]] = field(default_factory=dict)
    inits: list[dict[str, Any]] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    refuse: str = ""

    def module(self) -> types.ModuleType:
        module = types.ModuleType("wandb")
        module.Error = type("Error", (Exception,), {})

        def init(*, project, id, name, group, config, dir, resume, reinit):
            if self.refuse:
                raise module.Error(self.refuse)
            assert (resume, reinit) == ("allow", "create_new")
            assert re.fullmatch(r"[^/\\#?%:]{1,128}", id), id
            self.inits.append({"project": project, "id": id, "name": name, "group": group, "config": config})
            if self.offline:
                self.runs[id] = []
            return _WandbRun(self, self.runs.setdefault(id, []))

        module.init = init
        return module

    def only_run(self) -> list[tuple[int, dict[str, float]]]:
        (rows,) = self.runs.values()
        return rows


class _WandbRun:
    def __init__(self, server: WandbServer, rows) -> None:
        self._server, self._rows, self._finished = server, rows, False

    @property
    def step(self) -> int:
        return self._rows[-1][0] + 1 if self._rows else 0

    def log(self, values, *, step, commit) -> None:
        assert commit
        assert not self._finished
        if step < self.step:
            self._server.ignored.append(step)
        else:
            self._rows.append((step, values))

    def finish(self) -> None:
        assert not self._finished
        self._finished = True


@dataclass
class MlflowServer:
    """Experiments, runs and points."""

    uri: str | None = None
    experiments: dict[str, str | None] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    down: bool = False

    def modules(self) -> dict[str, types.ModuleType]:
        mlflow, entities = types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
        mlflow.exceptions = types.SimpleNamespace(MlflowException=_MlflowError)
        mlflow.is_tracking_uri_set = lambda: self.uri is not None
        mlflow.get_tracking_uri = lambda: self.uri

        def client(*, tracking_uri):
            self.asked.append(tracking_uri)
            return _MlflowClient(self)

        mlflow.MlflowClient = client
        entities.Metric = lambda key, value, timestamp, step: types.SimpleNamespace(key=key, value=value, step=step)
        entities.Param = lambda key, value: types.SimpleNamespace(key=key, value=value)
        return {"mlflow": mlflow, "mlflow.entities": entities}

    def only_run(self):
        (run,) = self.runs.values()
        return run


class _MlflowError(Exception):
    def __init__(self, message: str, error_code: str = "INTERNAL_ERROR") -> None:
        super().__init__(message)
        self.error_code = error_code


class _MlflowClient:
    def __init__(self, server: MlflowServer) -> None:
        self._server = server

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id=f"id of {name}") if name in self._server.experiments else None

    def create_experiment(self, name, *, artifact_location):
        self._server.experiments[name] = artifact_location
        return f"id of {name}"

    def create_run(self, experiment_id, *, run_name):
        if self._server.down:
            raise _MlflowError("no answer")
        run_id = f"run{len(self._server.runs)}"
        info = types.SimpleNamespace(run_id=run_id, lifecycle_stage="active", status="RUNNING", name=run_name)
        self._server.runs[run_id] = types.SimpleNamespace(
            info=info, experiment=experiment_id, points=[], params={}, data=None
        )
        return self._server.runs[run_id]

    def get_run(self, run_id):
        if self._server.down:
            raise _MlflowError("no answer")
        if run_id not in self._server.runs:
            raise _MlflowError("no such run", "RESOURCE_DOES_NOT_EXIST")
        run = self._server.runs[run_id]
        run.data = types.SimpleNamespace(metrics={p.key: p.value for p in run.points})
        return run

    def get_metric_history(self, run_id, key):
        return [p for p in self._server.runs[run_id].points if p.key == key]

    def update_run(self, run_id, *, status):
        self._server.runs[run_id].info.status = status

    def set_terminated(self, run_id):
        self._server.runs[run_id].info.status = "FINISHED"

    def log_batch(self, run_id, *, metrics=(), params=()):
        if self._server.down:
            raise _MlflowError("no answer")
        assert len(params) <= 100
        for item in (*metrics, *params):
            if not re.fullmatch(r"[\w./ -]{1,250}", item.key) or item.key.startswith(("/", ".")) or "//" in item.key:
                raise _MlflowError(f"Invalid value {item.key!r}")
        for point in metrics:
            if math.isinf(point.value):
                point.value = math.copysign(1.7976931348623157e308, point.value)
            self._server.runs[run_id].points.append(point)
        if len({param.key for param in params}) < len(params):
            raise _MlflowError("Duplicate parameter keys have been submitted")
        for param in params:
            known = self._server.runs[run_id].params
            if known.setdefault(param.key, param.value) != param.value:
                raise _MlflowError("Changing param values is not allowed")
