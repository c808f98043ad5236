"""Several loggers as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from spos_quant.loggers.base import Logger, LogTarget, loggers


class Loggers:
    """Hands every value to each of its loggers; made by `open_loggers`, closed by leaving its `with`."""

    def __init__(self, target: LogTarget) -> None:
        self._next = target.from_step
        self._open: list[Logger] = []
        self._stack = ExitStack()

    def add(self, logger: Logger) -> None:
        """Takes a logger and the duty to close it."""
        self._open.append(logger)
        self._stack.callback(logger.close)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs the values of one step; steps rise from call to call, beginning at the target's `from_step`."""
        assert step >= self._next, f"step {step} is logged where {self._next} or later was expected"
        assert "step" not in values, "the name 'step' is taken by the step itself"
        self._next = step + 1
        if self._open and values:
            numbers = {name: float(value) for name, value in values.items()}
            for logger in self._open:
                logger.log(numbers, step)

    def close(self) -> None:
        """Closes all loggers, also where closing one of them fails; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_loggers(names: Iterable[str], target: LogTarget) -> Loggers:
    """Opens loggers by name. Without names nothing is imported or written.

    Of several processes that train one model, one opens loggers.

    Raises:
        ConfigError: a name is unknown, or a logger needs a package that is not installed.
        RunError: a logger cannot write, or cannot reach its service.
    """
    opened = Loggers(target)
    try:
        for make in [loggers[name] for name in dict.fromkeys(names)]:
            opened.add(make(target))
    except BaseException:
        opened.close()
        raise
    return opened
