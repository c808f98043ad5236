"""Ctrl-C and SIGTERM: work stops at the next safe point, and the process ends within two seconds in any case.

Python runs its handler only after the running C call, for example the backward pass of a large network. So a thread
also watches the signals, and ends the process if the main thread has not. No data is lost, since files of a run
directory are written atomically.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_STATUS = 130
GRACE_SECONDS = 1.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """State of interrupts in this process."""

    deferring = 0
    """Number of open `deferred()` contexts."""
    waiting = False
    """Whether a deferred interrupt is pending."""
    arrived = False
    """Whether any interrupt arrived."""


def install(message: str) -> None:
    """Takes over SIGINT and SIGTERM in the main thread of a command.

    Args:
        message: Printed to stderr if the watching thread ends the process.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _handle)
    threading.Thread(target=_watch, args=(read, message), daemon=True, name="interrupts").start()


def reset_in_child(_number: int = 0) -> None:
    """In a forked child: ignores Ctrl-C, which the parent handles; SIGTERM ends the child.

    The child inherits the pipe of the parent's watching thread, which would take a signal to the child for its own.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Defers interrupts inside the context; the yielded function returns whether one arrived.

    Raises:
        KeyboardInterrupt: on exit, if an interrupt was deferred.
    """
    _State.deferring += 1
    try:
        yield lambda: _State.waiting
    finally:
        _State.deferring -= 1
    if _State.waiting and not _State.deferring:
        _State.waiting = False
        raise KeyboardInterrupt


def arrived() -> bool:
    """Whether an interrupt arrived. It may be the cause of a later error, for example of a half-imported package."""
    return _State.arrived


def _handle(_number: int, _frame: FrameType | None) -> None:
    _State.arrived = True
    if not _State.deferring:
        raise KeyboardInterrupt
    _State.waiting = True


def _watch(read: int, message: str) -> None:
    while os.read(read, 1)[0] not in _SIGNALS:
        continue
    time.sleep(GRACE_SECONDS)
    os.write(2, f"{message}\n".encode("utf-8", "replace"))
    os._exit(EXIT_STATUS)
