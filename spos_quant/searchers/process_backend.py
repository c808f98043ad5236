"""A worker backend of local processes."""

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


class ProcessBackend:
    """Local processes with the start method `spawn`, so that they inherit neither threads nor CUDA contexts.

    They ignore Ctrl-C, which the parent process handles, and end when the parent ends for any reason.

    Args:
        make: Makes the task function from the worker's number. It is called in the worker and must be picklable.
        workers: Number of processes, at least one.
    """

    noun = "process"

    def __init__(self, make: Callable[[int], Work[Any, Any]], workers: int) -> None:
        self._make, self.size = make, workers

    def spawn(self, number: int) -> Process:
        """Starts a process."""
        return Process(self._make, number)

    def ready(self, busy: Sequence[Process]) -> list[Process]:
        """The workers that answered, started or died; waits for the first."""
        found = wait([worker.pipe for worker in busy])
        return [worker for worker in busy if worker.pipe in found]

    def close(self) -> None:
        """Nothing to release besides the workers."""


class Process(Worker):
    """One process, and the pipe to it."""

    def __init__(self, make: Callable[[int], Work[Any, Any]], number: int) -> None:
        context = multiprocessing.get_context("spawn")
        # Not a daemon: daemons cannot start processes, for example data loaders.
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, number))
        self.process.start()
        theirs.close()  # so that `recv` raises EOFError when the process dies

    def submit(self, index: int, task: Any) -> None:
        """Sends a task to the worker."""
        self.index = index
        try:
            self.pipe.send(task)
        except OSError:
            return

    def receive(self) -> Any:
        """Its answer, None if it has just started, an exception that it raised, or a `WorkerFailure`."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return WorkerFailure(_exit_cause(self.process.exitcode))

    def end(self) -> None:
        """Kills the process, even during a task."""
        self.pipe.close()
        self.process.kill()
        self.process.join(5)


def _exit_cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else str(-exit_code)
        return f"signal {name}"
    return f"exit status {exit_code}"


def failure(error: Exception) -> Exception:
    """The exception to raise in the main process: a user error unchanged, any other error as `RuntimeError`."""
    if isinstance(error, SposQuantError):
        return error
    return RuntimeError(f"a worker process failed: {type(error).__name__}: {error}")


def _serve(pipe: Connection[Any, Any], make: Callable[[int], Work[Any, Any]], number: int) -> None:
    """Runs in the worker: reports the start, then answers every task until the other end is closed."""
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
    except Exception as error:  # noqa: BLE001 - raised in the main process
        pipe.send(failure(error))


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: a training would otherwise keep writing for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
