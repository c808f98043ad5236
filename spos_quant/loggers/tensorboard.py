"""`log=tensorboard`: event files that TensorBoard shows."""

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
    """Logs into `tensorboard/<name>/`, one event file per process.

    A file begins with the step from which earlier files no longer count (`purge_step`), so that TensorBoard shows every
    step once, with what was logged last.
    """
    writer = need("torch.utils.tensorboard", "tensorboard").SummaryWriter
    folder = target.folder / "tensorboard" / file_name(target.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder)
        logger = _TensorBoardLogger(folder, writer(str(folder), purge_step=target.from_step))
        if target.from_step == 0:
            logger.say(target.config)
    except OSError as error:
        raise unwritable(folder, error) from None
    return logger


def _make_room(folder: Path) -> None:
    """Sees to it that the next event file comes last: TensorBoard reads files by name, which begins with the second.

    After a quick restart, or on a machine whose clock is behind, the next name could come before one that is there.
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

    def say(self, config: Mapping[str, object]) -> None:
        # Markdown shows what is indented by four as it is.
        text = "".join(f"    {line}\n" for line in json.dumps(dict(config), indent=1, default=str).splitlines())
        self._writer.add_text("config", text, 0)
        self._writer.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # by itself it flushes every two minutes, and a kill would lose them
        except OSError as error:
            raise unwritable(self._folder, error) from None

    def close(self) -> None:
        try:
            self._writer.close()
        except OSError as error:
            raise unwritable(self._folder, error) from None
