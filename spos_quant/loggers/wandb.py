"""`log=wandb`: Weights & Biases.

A W&B run takes each step once, in rising order, and ignores a step that is not above its last. Hence:

- Online, going on resumes the run of the same id; the service says which step it waits for. Steps below that are not
  sent again: what was logged first stays, and a training that goes on from a checkpoint logs the same values.
- Offline (`WANDB_MODE=offline`) a run cannot be resumed: every process writes a folder of its own, and `wandb sync` of
  a later one replaces what an earlier one brought. So the first thing a process does is to log the earlier steps again;
  the newest folder is complete, and the only one that needs `wandb sync`.

Both are one rule: log what the run still lacks. The steps come from a table of our own, `wandb/<name>.csv`, which also
brings back what a kill took from W&B's buffers. An own step metric (`define_metric`) would lift the rule of rising
steps, but show steps that are logged again twice.
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
    """Logs to the project `WANDB_PROJECT`, else `spos-quant`; W&B's other variables are honoured too."""
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
            reinit="create_new",  # leaves a run alone that the caller may have open
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
    """The id of this curve's run: drawn once, then stored.

    It does not follow from the path alone: a run directory that is deleted and made anew must not continue the old run.
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
        self._lacks_from = int(run.step)
        for step, values in table.rows():
            self._send(values, step)

    def _send(self, values: Mapping[str, float], step: int) -> None:
        if step >= self._lacks_from:
            self._run.log(dict(values), step=step, commit=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._table.log(values, step)
        self._send(values, step)

    def close(self) -> None:
        self._table.close()
        if self._run is not None:
            self._run.finish()
            self._run = None
