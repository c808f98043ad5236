"""`log=csv`: one table per curve, readable with anything."""

from __future__ import annotations

from spos_quant.loggers.base import Logger, LogTarget, file_name, loggers
from spos_quant.loggers.table import StepTable


@loggers.register("csv")
def open_csv(target: LogTarget) -> Logger:
    """Logs into `<name>.csv`: no dates and no durations, so that the same run writes the same file."""
    return StepTable(target.folder / f"{file_name(target.name)}.csv", target.from_step)
