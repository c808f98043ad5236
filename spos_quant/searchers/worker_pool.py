"""Work done elsewhere, by processes or by actors: answers in order; who dies is replaced and its work is done again."""

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
"""What a worker does: takes tasks, yields an answer for each, in order. An evaluator is one."""
_TRIES = 3
"""How often a task may end its worker before the command gives up."""
_AHEAD = 4
"""Tasks per worker that may be finished before an earlier one is: what a kill costs at most."""
STARTING = -1
"""Stands for the number of a task while a worker starts."""


@dataclass(frozen=True)
class WorkerFailure:
    """What a worker answered that ended instead."""

    how: str


class Worker(ABC):
    """One process or actor. It starts by itself, and is then given one task at a time."""

    index: int | None = STARTING
    """The number of its task, `STARTING` until it has started, None where it is free."""

    @abstractmethod
    def submit(self, index: int, task: Any) -> None:
        """Gives it a task. That it died already is noticed when its answer is collected."""

    @abstractmethod
    def receive(self) -> Any:
        """Its answer, None where it has started, an exception that it met, or a `WorkerFailure`."""

    @abstractmethod
    def end(self) -> None:
        """Ends it, whatever it is doing."""

    def collect(self) -> tuple[int, Any]:
        """The number of its task, and the answer or a `WorkerFailure`. Raises what it raised."""
        assert self.index is not None
        index, self.index = self.index, None
        answer = self.receive()
        if isinstance(answer, BaseException):
            raise answer
        return index, answer


class WorkerBackend(Protocol):
    """Where workers come from.

    Attributes:
        size: Workers at most.
        noun: What one is called in messages.
    """

    size: int
    noun: str

    def spawn(self, number: int) -> Worker:
        """A worker that starts; `number` is below `size`."""

    def ready(self, busy: Sequence[Any]) -> Sequence[Any]:
        """Those of its workers that something can be collected from; waits for the first."""

    def close(self) -> None:
        """Gives back what is not a worker's own."""


class WorkerPool(Generic[Task, Answer]):
    """Does tasks by the workers of a backend, each of which makes its own way of doing them once.

    Args:
        backend: Processes of this machine, or actors of a cluster.
        doing: What a task is called in messages.
        smaller: The setting that lowers the memory of a task, for messages.
    """

    def __init__(
        self, backend: WorkerBackend, *, doing: str = "evaluation", smaller: str = "search.batch_size"
    ) -> None:
        self._crew, self._doing, self._smaller = backend, doing, smaller
        self._workers: list[Worker | None] = [None] * backend.size
        self._numbered = 0  # tasks of earlier calls: one that was abandoned may still be worked on
        self._failed_starts = 0

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """Answers in the order of `tasks`.

        Raises:
            RunError: a task ended its worker again and again, or no worker can start.
            SposQuantError: what doing it raised.
        """
        first, self._numbered = self._numbered, self._numbered + len(tasks)
        todo = deque(enumerate(tasks, first))
        tries = [0] * len(tasks)
        done: dict[int, Answer] = {}
        for turn in range(first, first + len(tasks)):
            while turn not in done:
                self._submit_all(todo, turn + _AHEAD * len(self._workers))
                busy = [worker for worker in self._workers if worker is not None and worker.index is not None]
                for worker in self._crew.ready(busy):
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
        """Ends the workers."""
        for i, worker in enumerate(self._workers):
            if worker is not None:
                worker.end()
            self._workers[i] = None
        self._crew.close()

    def _submit_all(self, todo: deque[tuple[int, Task]], limit: int) -> None:
        for worker in self._workers:
            if worker is not None and worker.index is None and todo and todo[0][0] < limit:
                worker.submit(*todo.popleft())
        coming = sum(worker is not None and worker.index == STARTING for worker in self._workers)
        for i, worker in enumerate(self._workers):
            if worker is None and coming < len(todo):
                self._workers[i] = self._crew.spawn(i)
                coming += 1

    def _died(self, death: WorkerFailure, task: Task, tries: int) -> None:
        noun = self._crew.noun
        if tries >= _TRIES:
            raise RunError(
                f"the {self._doing} of {task} ended its {noun} {_TRIES} times ({death.how}); "
                f"if memory ran out, give fewer --workers or a smaller {self._smaller}"
            )
        remark(f"a worker {noun} ended ({death.how}); its {self._doing} is done again")

    def _did_not_start(self, death: WorkerFailure) -> None:
        noun = self._crew.noun
        self._failed_starts += 1
        if self._failed_starts >= _TRIES:
            raise RunError(
                f"a worker {noun} ended before it had started, {_TRIES} times in a row ({death.how}); "
                "if memory ran out, give fewer --workers"
            )
        remark(f"a worker {noun} ended before it had started ({death.how}); another one starts")

    def _replace(self, dead: Worker) -> None:
        dead.end()
        self._workers[self._workers.index(dead)] = None


EvaluatorPool = WorkerPool[Architecture, Evaluation]
"""Judges architectures by several workers."""
