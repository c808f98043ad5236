"""Evaluators in processes of their own: results in order; one that dies is replaced and its work is done again."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from spos_quant.errors import RunError, SposQuantError
from spos_quant.progress import remark
from spos_quant.searchers.base import Evaluation, Evaluator
from spos_quant.space.search_space import Architecture

_TRIES = 3
"""How often an architecture may end its process before the search gives up."""
_AHEAD = 4
"""Architectures per worker that may be finished before an earlier one is: what a kill costs at most."""


class EvaluatorPool:
    """Judges architectures in `workers` processes, each of which makes its own evaluator once.

    The processes are started afresh (`spawn`), so that neither threads nor CUDA contexts are inherited. They ignore
    Ctrl-C, which is this process's to handle, and end when it does, however it does.

    Args:
        make: Makes an evaluator from the worker's number; called in the worker, so it must be picklable.
        workers: Processes, at least one.
    """

    def __init__(self, make: Callable[[int], Evaluator], workers: int) -> None:
        self._make = make
        self._workers: list[_Worker | None] = [None] * workers

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Evaluations in the order of `architectures`.

        Raises:
            RunError: an architecture ended its process again and again, or a worker cannot start.
            SposQuantError: what the evaluator raised.
        """
        todo = deque(enumerate(architectures))
        tries = [0] * len(architectures)
        done: dict[int, Evaluation] = {}
        for turn, _ in enumerate(architectures):
            while turn not in done:
                self._hand_out(todo, turn + _AHEAD * len(self._workers))
                for worker in self._ready():
                    index, answer = worker.collect()
                    if isinstance(answer, Evaluation):
                        done[index] = answer
                        continue
                    self._replace(worker)
                    tries[index] += 1
                    if tries[index] >= _TRIES:
                        raise RunError(
                            f"the evaluation of {architectures[index]} ended its process {_TRIES} times ({answer}); "
                            "if memory ran out, give fewer --workers or a smaller search.batch_size"
                        )
                    remark(f"an evaluator process ended ({answer}); its work is done again")
                    todo.appendleft((index, architectures[index]))
            yield done.pop(turn)

    def __enter__(self) -> EvaluatorPool:
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

    def _hand_out(self, todo: deque[tuple[int, Architecture]], limit: int) -> None:
        for i, worker in enumerate(self._workers):
            if todo and todo[0][0] < limit and (worker is None or worker.index is None):
                worker = self._workers[i] = worker or _Worker(self._make, i)
                worker.hand(*todo.popleft())

    def _ready(self) -> list[_Worker]:
        busy = [worker for worker in self._workers if worker is not None and worker.index is not None]
        ready = wait([worker.pipe for worker in busy])
        return [worker for worker in busy if worker.pipe in ready]

    def _replace(self, dead: _Worker) -> None:
        dead.end()
        self._workers[self._workers.index(dead)] = None


class _Worker:
    """One process and what it is working on."""

    def __init__(self, make: Callable[[int], Evaluator], number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, number), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here when the process dies
        self.index: int | None = None

    def hand(self, index: int, architecture: Architecture) -> None:
        """Gives it an architecture. A process that died already is noticed when its answer is collected."""
        self.index = index
        try:
            self.pipe.send(architecture)
        except OSError:
            return

    def collect(self) -> tuple[int, Evaluation | str]:
        """The index of its architecture, and the evaluation or how the process died. Raises what it raised."""
        assert self.index is not None
        index, self.index = self.index, None
        try:
            answer: Any = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return index, _how(self.process.exitcode)
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


def _serve(pipe: Connection[Any, Any], make: Callable[[int], Evaluator], number: int) -> None:
    """A worker: answers every architecture with its evaluation, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        evaluate = make(number)
        while True:
            architecture = pipe.recv()
            (evaluation,) = evaluate([architecture])
            pipe.send(evaluation)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except SposQuantError as error:
        pipe.send(error)
    except Exception as error:  # noqa: BLE001 - told where the search runs
        pipe.send(RuntimeError(f"an evaluator process failed: {type(error).__name__}: {error}"))
