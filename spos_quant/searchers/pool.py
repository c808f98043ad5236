"""Work in processes of their own: answers in order; a process that dies is replaced and its work is done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from spos_quant.errors import RunError, SposQuantError
from spos_quant.progress import remark
from spos_quant.searchers.base import Evaluation
from spos_quant.space.search_space import Architecture

Task = TypeVar("Task")
Answer = TypeVar("Answer")
Work = Callable[[Sequence[Task]], Iterable[Answer]]
"""What a process does: takes tasks, yields an answer for each, in order. An evaluator is one."""
_TRIES = 3
"""How often a task may end its process before the command gives up."""
_AHEAD = 4
"""Tasks per worker that may be finished before an earlier one is: what a kill costs at most."""


class WorkerPool(Generic[Task, Answer]):
    """Does tasks in `workers` processes, each of which makes its own way of doing them once.

    The processes are started afresh (`spawn`), so that neither threads nor CUDA contexts are inherited. They ignore
    Ctrl-C, which is this process's to handle, and end when it does, however it does.

    Args:
        make: Makes what does the tasks from the worker's number; called in the worker, so it must be picklable.
        workers: Processes, at least one.
        doing: What a task is called in messages.
        smaller: The setting that lowers the memory of a task, for messages.
    """

    def __init__(
        self,
        make: Callable[[int], Work[Task, Answer]],
        workers: int,
        *,
        doing: str = "evaluation",
        smaller: str = "search.batch_size",
    ) -> None:
        self._make, self._doing, self._smaller = make, doing, smaller
        self._workers: list[_Worker[Task, Answer] | None] = [None] * workers

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """Answers in the order of `tasks`.

        Raises:
            RunError: a task ended its process again and again, or a worker cannot start.
            SposQuantError: what doing it raised.
        """
        todo = deque(enumerate(tasks))
        tries = [0] * len(tasks)
        done: dict[int, Answer] = {}
        for turn, _ in enumerate(tasks):
            while turn not in done:
                self._hand_out(todo, turn + _AHEAD * len(self._workers))
                for worker in self._ready():
                    index, answer = worker.collect()
                    if not isinstance(answer, _Death):
                        done[index] = answer
                        continue
                    self._replace(worker)
                    tries[index] += 1
                    if tries[index] >= _TRIES:
                        raise RunError(
                            f"the {self._doing} of {tasks[index]} ended its process {_TRIES} times ({answer.how}); "
                            f"if memory ran out, give fewer --workers or a smaller {self._smaller}"
                        )
                    remark(f"a worker process ended ({answer.how}); its {self._doing} is done again")
                    todo.appendleft((index, tasks[index]))
            yield done.pop(turn)

    def __enter__(self) -> WorkerPool[Task, Answer]:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        for i, worker in enumerate(self._workers):
            if worker is not None:
                worker.end()
            self._workers[i] = None

    def _hand_out(self, todo: deque[tuple[int, Task]], limit: int) -> None:
        for i, worker in enumerate(self._workers):
            if todo and todo[0][0] < limit and (worker is None or worker.index is None):
                worker = self._workers[i] = worker or _Worker(self._make, i)
                worker.hand(*todo.popleft())

    def _ready(self) -> list[_Worker[Task, Answer]]:
        busy = [worker for worker in self._workers if worker is not None and worker.index is not None]
        ready = wait([worker.pipe for worker in busy])
        return [worker for worker in busy if worker.pipe in ready]

    def _replace(self, dead: _Worker[Task, Answer]) -> None:
        dead.end()
        self._workers[self._workers.index(dead)] = None


EvaluatorPool = WorkerPool[Architecture, Evaluation]
"""Judges architectures in several processes."""


@dataclass(frozen=True)
class _Death:
    """What a process answered that ended instead."""

    how: str


class _Worker(Generic[Task, Answer]):
    """One process and what it is working on."""

    def __init__(self, make: Callable[[int], Work[Task, Answer]], number: int) -> None:
        context = multiprocessing.get_context("spawn")
        # No daemon, which might start no processes of its own, such as those that load pictures.
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, number))
        self.process.start()
        theirs.close()  # so that its end is seen here when the process dies
        self.index: int | None = None

    def hand(self, index: int, task: Task) -> None:
        """Gives it a task. A process that died already is noticed when its answer is collected."""
        self.index = index
        try:
            self.pipe.send(task)
        except OSError:
            return

    def collect(self) -> tuple[int, Answer | _Death]:
        """The index of its task, and the answer or how the process died. Raises what it raised."""
        assert self.index is not None
        index, self.index = self.index, None
        try:
            answer: Any = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return index, _Death(_how(self.process.exitcode))
        if isinstance(answer, BaseException):
            raise answer
        return index, answer

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


def _serve(pipe: Connection[Any, Any], make: Callable[[int], Work[Any, Any]], number: int) -> None:
    """A worker: answers every task, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    try:
        work = make(number)
        while True:
            task = pipe.recv()
            (answer,) = work([task])
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except SposQuantError as error:
        pipe.send(error)
    except Exception as error:  # noqa: BLE001 - told where the search runs
        pipe.send(RuntimeError(f"a worker process failed: {type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone: a training goes on for hours and would write on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
