"""Opens several loggers and logs to all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from spos_quant.loggers.base import Logger, LogTarget, loggers


class Loggers:
    """Logs every value to each of its loggers. A context manager made by `open_loggers`; leaving it closes them."""

    def __init__(self, target: LogTarget) -> None:
        self._next = target.from_step
        self._open: list[Logger] = []
        self._stack = ExitStack()

    def add(self, logger: Logger) -> None:
        """Adds a logger, which `close` then closes."""
        self._open.append(logger)
        self._stack.callback(logger.close)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs the values of one step. Steps must increase from call to call, starting at the target's `from_step`."""
        assert step >= self._next, f"step {step} is logged, but step {self._next} or later was expected"
        assert "step" not in values, "the name 'step' is reserved for the step itself"
        self._next = step + 1
        if self._open and values:
            numbers = {name: float(value) for name, value in values.items()}
            for logger in self._open:
                logger.log(numbers, step)

    def close(self) -> None:
        """Closes all loggers, even if closing one of them fails; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_loggers(names: Iterable[str], target: LogTarget) -> Loggers:
    """Opens loggers by name. Without names, nothing is imported or written.

    If several processes train one model, only one of them opens loggers.

    Raises:
        ConfigError: A name is unknown, or a logger needs a package that is not installed.
        RunError: A logger cannot write, or cannot reach its service.
    """
    opened = Loggers(target)
    try:
        for make in [loggers[name] for name in dict.fromkeys(names)]:
            opened.add(make(target))
    except BaseException:
        opened.close()
        raise
    return opened
