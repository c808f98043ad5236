"""A pool of workers (processes or actors): ordered answers; a worker that dies is replaced and its task repeated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from spos_quant.errors import RunError
from spos_quant.progress import remark
from spos_quant.searchers.base import Evaluation
from spos_quant.space.search_space import Architecture

Task = TypeVar("Task")
Answer = TypeVar("Answer")
Work = Callable[[Sequence[Task]], Iterable[Answer]]
"""The task function of a worker: takes tasks and yields an answer for each, in order. An evaluator is one."""
_TRIES = 3
"""How often a task may kill its worker before the command fails."""
_AHEAD = 4
"""Tasks per worker that may finish before an earlier one does. A kill loses at most this much work."""
STARTING = -1
"""The task index of a worker that is starting."""


@dataclass(frozen=True)
class WorkerFailure:
    """The answer of a worker that died instead of answering."""

    how: str


class Worker(ABC):
    """One process or actor. It starts on construction and then takes one task at a time."""

    index: int | None = STARTING
    """The index of its task, `STARTING` until it has started, None if it is idle."""

    @abstractmethod
    def submit(self, index: int, task: Any) -> None:
        """Sends it a task. If the worker is already dead, `collect` reports that."""

    @abstractmethod
    def receive(self) -> Any:
        """Its answer, None if it has just started, an exception that it raised, or a `WorkerFailure`."""

    @abstractmethod
    def end(self) -> None:
        """Kills it, even during a task."""

    def collect(self) -> tuple[int, Any]:
        """The index of its task, and the answer or a `WorkerFailure`. Raises the exception that the worker raised."""
        assert self.index is not None
        index, self.index = self.index, None
        answer = self.receive()
        if isinstance(answer, BaseException):
            raise answer
        return index, answer


class WorkerBackend(Protocol):
    """Creates workers and waits for them.

    Attributes:
        size: Maximum number of workers.
        noun: The word for a worker in messages.
    """

    size: int
    noun: str

    def spawn(self, number: int) -> Worker:
        """Starts a worker; `number` is below `size`."""

    def ready(self, busy: Sequence[Any]) -> Sequence[Any]:
        """The workers that can be collected; waits for the first."""

    def close(self) -> None:
        """Releases resources other than the workers."""


class WorkerPool(Generic[Task, Answer]):
    """Runs tasks on the workers of a backend. Each worker makes its task function once.

    Args:
        backend: Local processes, or actors of a cluster.
        doing: The word for a task in messages.
        smaller: The setting that lowers the memory of a task, for messages.
    """

    def __init__(
        self, backend: WorkerBackend, *, doing: str = "evaluation", smaller: str = "search.batch_size"
    ) -> None:
        self._backend, self._doing, self._smaller = backend, doing, smaller
        self._workers: list[Worker | None] = [None] * backend.size
        self._numbered = 0  # tasks of earlier calls, some of which may still run if a call was abandoned
        self._failed_starts = 0

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """Answers in the order of `tasks`.

        Raises:
            RunError: a task killed its worker repeatedly, or no worker can start.
            SposQuantError: raised by a task.
        """
        first, self._numbered = self._numbered, self._numbered + len(tasks)
        todo = deque(enumerate(tasks, first))
        tries = [0] * len(tasks)
        done: dict[int, Answer] = {}
        for turn in range(first, first + len(tasks)):
            while turn not in done:
                self._submit_all(todo, turn + _AHEAD * len(self._workers))
                busy = [worker for worker in self._workers if worker is not None and worker.index is not None]
                for worker in self._backend.ready(busy):
                    index, answer = worker.collect()
                    if isinstance(answer, WorkerFailure):
                        self._replace(worker)
                        if index >= first:
                            tries[index - first] += 1
                            self._died(answer, tasks[index - first], tries[index - first])
                            todo.appendleft((index, tasks[index - first]))
                        elif index == STARTING:
                            self._did_not_start(answer)
                    elif index == STARTING:
                        self._failed_starts = 0
                    elif index >= first:
                        done[index] = answer
            yield done.pop(turn)

    def __enter__(self) -> WorkerPool[Task, Answer]:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills the workers and closes the backend."""
        for i, worker in enumerate(self._workers):
            if worker is not None:
                worker.end()
            self._workers[i] = None
        self._backend.close()

    def _submit_all(self, todo: deque[tuple[int, Task]], limit: int) -> None:
        for worker in self._workers:
            if worker is not None and worker.index is None and todo and todo[0][0] < limit:
                worker.submit(*todo.popleft())
        starting = sum(worker is not None and worker.index == STARTING for worker in self._workers)
        for i, worker in enumerate(self._workers):
            if worker is None and starting < len(todo):
                self._workers[i] = self._backend.spawn(i)
                starting += 1

    def _died(self, failure: WorkerFailure, task: Task, tries: int) -> None:
        noun = self._backend.noun
        if tries >= _TRIES:
            raise RunError(
                f"the {self._doing} of {task} ended its {noun} {_TRIES} times ({failure.how}); "
                f"if memory ran out, give fewer --workers or a smaller {self._smaller}"
            )
        remark(f"a worker {noun} ended ({failure.how}); its {self._doing} is done again")

    def _did_not_start(self, failure: WorkerFailure) -> None:
        noun = self._backend.noun
        self._failed_starts += 1
        if self._failed_starts >= _TRIES:
            raise RunError(
                f"a worker {noun} ended before it had started, {_TRIES} times in a row ({failure.how}); "
                "if memory ran out, give fewer --workers"
            )
        remark(f"a worker {noun} ended before it had started ({failure.how}); another one starts")

    def _replace(self, dead: Worker) -> None:
        dead.end()
        self._workers[self._workers.index(dead)] = None


EvaluatorPool = WorkerPool[Architecture, Evaluation]
"""Evaluates architectures with several workers."""
