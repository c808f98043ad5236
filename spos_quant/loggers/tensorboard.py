"""`log=tensorboard`: event files for TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spos_quant.loggers.base import Logger, LogTarget, file_name, loggers, need, unwritable

_PREFIX = "events.out.tfevents."


@loggers.register("tensorboard")
def open_tensorboard(target: LogTarget) -> Logger:
    """Logs to `tensorboard/<name>/`, one event file per process.

    Each file sets `purge_step`: TensorBoard discards this and later steps of earlier files. It therefore shows every
    step once, with the value that was logged last.
    """
    writer = need("torch.utils.tensorboard", "tensorboard").SummaryWriter
    folder = target.folder / "tensorboard" / file_name(target.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _ensure_next_file_sorts_last(folder)
        logger = _TensorBoardLogger(folder, writer(str(folder), purge_step=target.from_step))
        if target.from_step == 0:
            logger.add_config(target.config)
    except OSError as error:
        raise unwritable(folder, error) from None
    return logger


def _ensure_next_file_sorts_last(folder: Path) -> None:
    """Renames the existing event files, if necessary, so that the next event file sorts last.

    TensorBoard reads files in the order of their names, which begin with a timestamp in seconds. After a quick restart,
    or on a machine whose clock is behind, the next name could sort before an existing one.
    """
    files = sorted(folder.glob(f"{_PREFIX}*"))
    names = [path.name.removeprefix(_PREFIX) for path in files]
    if all(name < f"{int(time.time()):010d}" for name in names):
        return
    for index, (path, name) in enumerate(zip(files, names, strict=True)):
        path.rename(folder / f"{_PREFIX}{index:010d}.{name.partition('.')[2]}")


class _TensorBoardLogger:
    def __init__(self, folder: Path, writer: Any) -> None:
        self._folder = folder
        self._writer = writer

    def add_config(self, config: Mapping[str, object]) -> None:
        # Markdown shows text with an indent of four spaces verbatim.
        text = "".join(f"    {line}\n" for line in json.dumps(dict(config), indent=1, default=str).splitlines())
        self._writer.add_text("config", text, 0)
        self._writer.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # by default it flushes every two minutes; a kill would lose values
        except OSError as error:
            raise unwritable(self._folder, error) from None

    def close(self) -> None:
        try:
            self._writer.close()
        except OSError as error:
            raise unwritable(self._folder, error) from None
