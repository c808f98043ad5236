"""`log=csv`: one CSV file per curve."""

from __future__ import annotations

from spos_quant.loggers.base import Logger, LogTarget, file_name, loggers
from spos_quant.loggers.table import StepTable


@loggers.register("csv")
def open_csv(target: LogTarget) -> Logger:
    """Logs to `<name>.csv`. The file has no dates or durations, so that the same run writes the same file."""
    return StepTable(target.folder / f"{file_name(target.name)}.csv", target.from_step)
