"""Ctrl-C and SIGTERM: work stops at the next safe place, and the process ends within two seconds whatever it is doing.

Python's own handler has to wait for the running C call, and the backward pass of a large network is one. So a thread
watches the signals too, and ends the process where the main thread has not. That loses nothing: whatever a run
directory holds is whole at every moment.
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
    """Whether interrupts wait for a safe place just now, whether one waits, and whether any came at all."""

    deferring = 0
    waiting = False
    arrived = False


def install(message: str) -> None:
    """Takes over SIGINT and SIGTERM in the main thread of a command.

    Args:
        message: Said on stderr where the process must be ended from outside.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _handle)
    threading.Thread(target=_watch, args=(read, message), daemon=True, name="interrupts").start()


def leave_to_parent(_number: int = 0) -> None:
    """In a forked child: Ctrl-C is its parent's to handle, and the parent ends it by SIGTERM.

    The pipe of the parent's watching thread is inherited: a signal to the child would look like one to the parent.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, an interrupt waits; the function that is yielded says whether one does.

    Raises:
        KeyboardInterrupt: at the end, where one waited.
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
    """Whether an interrupt came: errors after it may be its consequence, such as a package that was half imported."""
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
