"""`log=wandb`: Weights & Biases.

A W&B run accepts each step once, in increasing order, and ignores a step that is not above its last. Therefore:

- Online, a process resumes the run of the same id. The service reports the next step that it expects. Earlier steps are
  not sent again. The first logged values stay; a training that resumes from a checkpoint logs the same values.
- Offline (`WANDB_MODE=offline`), a run cannot be resumed. Every process writes its own folder, and `wandb sync` of a
  later folder replaces the values of an earlier one. A process therefore first logs the earlier steps again. The newest
  folder is complete, and only it needs `wandb sync`.

In both cases the logger sends the steps that the run lacks. It reads them from its own table `wandb/<name>.csv`, which
also has the values that W&B's buffers lost in a kill. A custom step metric (`define_metric`) would allow steps that do
not increase, but would show repeated steps twice.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spos_quant.errors import RunError
from spos_quant.loggers.base import Logger, LogTarget, file_name, loggers, need, unwritable
from spos_quant.loggers.table import StepTable
from spos_quant.run_dir import read_json, write_json

_LONGEST_NAME = 40


@loggers.register("wandb")
def open_wandb(target: LogTarget) -> Logger:
    """Logs to the project `WANDB_PROJECT`, else `spos-quant`. W&B's other environment variables apply too."""
    wandb = need("wandb", "wandb")
    folder = target.folder / "wandb"
    table = StepTable(folder / f"{file_name(target.name)}.csv", target.from_step)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "spos-quant",
            id=_run_id(folder / f"{file_name(target.name)}.json", target),
            name=f"{target.run}/{target.name}",
            group=target.run,
            config=dict(target.config),
            dir=str(target.folder),
            resume="allow",
            reinit="create_new",  # does not finish a run that the caller has open
        )
        return _WandbLogger(run, table)
    except wandb.Error as error:
        table.close()
        raise RunError(
            f"log=wandb: no run could be opened ({error}); log in with: wandb login, or set WANDB_MODE=offline"
        ) from None
    except BaseException:
        table.close()
        raise


def _run_id(path: Path, target: LogTarget) -> str:
    """The id of this curve's run, which is generated once and then stored.

    It has a random part, because a deleted and recreated run directory must not continue the old run.
    """
    if path.exists():
        return str(read_json(path)["id"])
    words = "-".join(file_name(word)[:_LONGEST_NAME] for word in (target.run, target.name))
    made = f"{words}-{uuid.uuid4().hex[:8]}"
    try:
        write_json(path, {"id": made})
    except OSError as error:
        raise unwritable(path, error) from None
    return made


class _WandbLogger:
    def __init__(self, run: Any, table: StepTable) -> None:
        self._table = table
        self._run = run
        self._next_step = int(run.step)
        for step, values in table.rows():
            self._send(values, step)

    def _send(self, values: Mapping[str, float], step: int) -> None:
        if step >= self._next_step:
            self._run.log(dict(values), step=step, commit=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._table.log(values, step)
        self._send(values, step)

    def close(self) -> None:
        self._table.close()
        if self._run is not None:
            self._run.finish()
            self._run = None
