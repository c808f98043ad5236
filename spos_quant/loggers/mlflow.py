"""`log=mlflow`: an MLflow tracking server or a local store.

MLflow stores every value it receives. A step that is logged twice becomes two points; in a database even the same value
does, unless its timestamp is equal too. Points cannot be deleted. A resumed process therefore continues the same run,
queries which steps the run has, and does not log them again. The first logged values stay; a training that resumes from
a checkpoint logs the same values. Every call is stored when it returns. Databases store infinity as the largest double.
"""

from __future__ import annotations

import os
import posixpath
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spos_quant.errors import RunError
from spos_quant.loggers.base import Logger, LogTarget, file_name, flat, loggers, need, unwritable
from spos_quant.run_dir import read_json, write_json

_LONGEST_KEY = 250
_LONGEST_VALUE = 500
_BATCH = 100


@loggers.register("mlflow")
def open_mlflow(target: LogTarget) -> Logger:
    """Logs to MLflow's configured tracking URI (for example `MLFLOW_TRACKING_URI`), else to `mlflow/mlflow.db`.

    The experiment is `MLFLOW_EXPERIMENT_ID` or `MLFLOW_EXPERIMENT_NAME`, else `spos-quant`. The run's id is stored in
    `mlflow/<name>.json`. If the server does not know it, a new run starts.
    """
    mlflow = need("mlflow", "mlflow")
    folder = target.folder.resolve() / "mlflow"
    stored = folder / f"{file_name(target.name)}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _reporting(mlflow):
            local = None if mlflow.is_tracking_uri_set() else folder
            uri = f"sqlite:///{folder.as_posix()}/mlflow.db" if local else mlflow.get_tracking_uri()
            client = mlflow.MlflowClient(tracking_uri=uri)
            run_id = _stored_run(mlflow, client, stored)
            if run_id is not None:
                logged = _logged_points(client, run_id, target.from_step)
                client.update_run(run_id, status="RUNNING")
                return _MlflowLogger(mlflow, client, run_id, logged)
            run_id = _create_run(client, target, local)
        write_json(stored, {"run_id": run_id})
    except OSError as error:
        raise unwritable(folder, error) from None
    return _MlflowLogger(mlflow, client, run_id, set())


@contextmanager
def _reporting(mlflow: Any) -> Iterator[None]:
    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        raise RunError(
            f"log=mlflow: {error}; see to the store that MLFLOW_TRACKING_URI names, or leave mlflow out"
        ) from None


def _stored_run(mlflow: Any, client: Any, stored: Path) -> str | None:
    """The id of an earlier process's run, if the server still has it."""
    if not stored.exists():
        return None
    run_id = str(read_json(stored)["run_id"])
    try:
        run = client.get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run_id if run.info.lifecycle_stage == "active" else None


def _logged_points(client: Any, run_id: str, from_step: int) -> set[tuple[str, int]]:
    """The run's (metric, step) pairs of `from_step` and later, which must not be logged again."""
    keys = client.get_run(run_id).data.metrics
    return {(key, p.step) for key in keys for p in client.get_metric_history(run_id, key) if p.step >= from_step}


def _create_run(client: Any, target: LogTarget, local: Path | None) -> str:
    run = client.create_run(_experiment(client, local), run_name=f"{target.run}/{target.name}")
    run_id = str(run.info.run_id)
    param = need("mlflow.entities", "mlflow").Param
    settings = {_key(name): str(value)[:_LONGEST_VALUE] for name, value in flat(target.config).items()}
    params = [param(name, value) for name, value in settings.items()]
    for start in range(0, len(params), _BATCH):
        client.log_batch(run_id, params=params[start : start + _BATCH])
    return run_id


def _experiment(client: Any, local: Path | None) -> str:
    if named := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return named
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "spos-quant"
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    # By default, MLflow puts a local store's artifacts into the current directory.
    artifacts = None if local is None else (local / "artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=artifacts))


class _MlflowLogger:
    def __init__(self, mlflow: Any, client: Any, run_id: str, logged: set[tuple[str, int]]) -> None:
        self._mlflow, self._client, self._run_id, self._logged = mlflow, client, run_id, logged
        self._metric = need("mlflow.entities", "mlflow").Metric
        self._open = True

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        points = {_key(name): value for name, value in values.items()}
        missing = [
            self._metric(key, value, now, step) for key, value in points.items() if (key, step) not in self._logged
        ]
        if missing:
            with _reporting(self._mlflow):
                self._client.log_batch(self._run_id, metrics=missing)

    def close(self) -> None:
        if self._open:
            self._open = False
            with _reporting(self._mlflow):
                self._client.set_terminated(self._run_id)


def _key(name: str) -> str:
    """Converts a name to one that MLflow accepts: allowed characters only, a normalized path, limited length."""
    plain = posixpath.normpath(re.sub(r"[^A-Za-z0-9_./ -]", "_", name)).lstrip("./")
    return plain[:_LONGEST_KEY] or "_"
