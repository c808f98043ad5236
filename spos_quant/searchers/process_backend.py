"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from spos_quant.errors import SposQuantError
from spos_quant.searchers.worker_pool import Work, Worker, WorkerFailure


class Processes:
    """Processes that are started afresh (`spawn`), so that neither threads nor CUDA contexts are inherited.

    They ignore Ctrl-C, which is this process's to handle, and end when it does, however it does.

    Args:
        make: Makes what does the tasks from the worker's number; called in the worker, so it must be picklable.
        workers: Processes, at least one.
    """

    noun = "process"

    def __init__(self, make: Callable[[int], Work[Any, Any]], workers: int) -> None:
        self._make, self.size = make, workers

    def spawn(self, number: int) -> Process:
        """A process that starts."""
        return Process(self._make, number)

    def ready(self, busy: Sequence[Process]) -> list[Process]:
        """Those that have answered, started or died; waits for the first."""
        found = wait([worker.pipe for worker in busy])
        return [worker for worker in busy if worker.pipe in found]

    def close(self) -> None:
        """Nothing is left but the workers themselves."""


class Process(Worker):
    """One process, and the pipe to it."""

    def __init__(self, make: Callable[[int], Work[Any, Any]], number: int) -> None:
        context = multiprocessing.get_context("spawn")
        # No daemon, which might start no processes of its own, such as those that load pictures.
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, number))
        self.process.start()
        theirs.close()  # so that its end is seen here when the process dies

    def submit(self, index: int, task: Any) -> None:
        """Gives it a task."""
        self.index = index
        try:
            self.pipe.send(task)
        except OSError:
            return

    def receive(self) -> Any:
        """Its answer, None where it has started, an exception that it met, or a `WorkerFailure`."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return WorkerFailure(_how(self.process.exitcode))

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self.pipe.close()
        self.process.kill()
        self.process.join(5)


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else str(-exit_code)
        return f"signal {name}"
    return f"exit status {exit_code}"


def failure(error: Exception) -> Exception:
    """What is told where the search runs: a user's error as it is, ours by its name."""
    if isinstance(error, SposQuantError):
        return error
    return RuntimeError(f"a worker process failed: {type(error).__name__}: {error}")


def _serve(pipe: Connection[Any, Any], make: Callable[[int], Work[Any, Any]], number: int) -> None:
    """A worker: says that it has started, then answers every task, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    try:
        work = make(number)
        pipe.send(None)
        while True:
            task = pipe.recv()
            (answer,) = work([task])
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # noqa: BLE001 - told where the search runs
        pipe.send(failure(error))


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone: a training goes on for hours and would write on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
