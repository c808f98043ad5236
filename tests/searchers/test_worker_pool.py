"""Evaluator processes: the same answers in the same order as in this process, even if processes fail."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from spos_quant.errors import DataError, RunError
from spos_quant.searchers.base import Evaluation
from spos_quant.searchers.process_backend import ProcessBackend
from spos_quant.searchers.worker_pool import EvaluatorPool, WorkerPool

MANY = [(i, i % 3) for i in range(17)]


class StubEvaluator:
    """An evaluator that marks its start by a file and misbehaves at one architecture, as `mode` says."""

    def __init__(self, folder: Path, mode: str, number: int) -> None:
        self.folder, self.mode = folder, mode
        if mode == "cannot start":
            raise DataError("the data set is gone; mount it")
        if mode == "dies at start":
            os._exit(7)
        (folder / f"started-{os.getpid()}-{number}").touch()

    def __call__(self, architectures):
        for a in architectures:
            if a == MANY[5]:
                self._trouble(a)
            yield Evaluation(a, sum(a) / 7, None if a[1] else a[0] / 3)

    def _trouble(self, a) -> None:
        first = not (self.folder / "happened").exists()
        (self.folder / "happened").touch()
        if self.mode == "dies always" or (self.mode == "dies once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mode == "exits once" and first:
            os._exit(3)
        if self.mode == "long":
            time.sleep(3600)
        if self.mode == "user error":
            raise DataError("image 7.png cannot be read")
        if self.mode == "our error":
            raise ZeroDivisionError("a fault of ours")


def stub_evaluator(folder: Path, mode: str, number: int) -> StubEvaluator:
    return StubEvaluator(folder, mode, number)


def pool(folder: Path, mode: str, workers: int) -> EvaluatorPool:
    return EvaluatorPool(ProcessBackend(partial(stub_evaluator, folder, mode), workers))


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_are_those_of_this_process_in_order(tmp_path, workers):
    expected = list(StubEvaluator(tmp_path, "", 0)(MANY))
    with pool(tmp_path, "", workers) as evaluate:
        assert list(evaluate(MANY)) == expected
        assert list(evaluate(MANY[:2])) == expected[:2]
        assert list(evaluate([])) == []
    started = {path.name.split("-")[2] for path in tmp_path.glob("started-*")}
    assert started <= {str(i) for i in range(workers)}  # a late worker may find no task left
    assert len(list(tmp_path.glob("started-*"))) <= workers + 1  # each worker starts once, plus the one in this process
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("mode", "how"), [("dies once", "signal SIGKILL"), ("exits once", "exit status 3")])
def test_a_process_that_dies_is_replaced_and_its_work_done_again(tmp_path, capsys, mode, how):
    with pool(tmp_path, mode, 2) as evaluate:
        assert list(evaluate(MANY)) == list(StubEvaluator(tmp_path, "", 0)(MANY))
    assert f"a worker process ended ({how}); its evaluation is done again" in capsys.readouterr().err


def test_an_architecture_that_always_ends_its_process_is_named(tmp_path):
    with pool(tmp_path, "dies always", 2) as evaluate, pytest.raises(RunError, match=r"\(5, 2\) ended .* 3 times"):
        list(evaluate(MANY))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("user error", DataError, "image 7.png cannot be read"),
        ("cannot start", DataError, "the data set is gone; mount it"),
        ("our error", RuntimeError, "a worker process failed: ZeroDivisionError: a fault of ours"),
    ],
)
def test_what_an_evaluator_raises_is_raised_here(tmp_path, mode, kind, message):
    with pool(tmp_path, mode, 2) as evaluate, pytest.raises(kind, match=message):
        list(evaluate(MANY))
    assert not multiprocessing.active_children()


def test_the_number_of_answers_ahead_is_bounded(tmp_path):
    """A kill loses at most the finished answers that were not yet yielded."""
    with pool(tmp_path, "", 2) as evaluate:
        evaluations = evaluate([(i, 0) for i in range(1000)])
        assert next(evaluations).architecture == (0, 0)
        evaluations.close()


@pytest.mark.parametrize("mode", ["", "long"])
def test_workers_end_with_the_process_that_started_them(tmp_path, mode):
    """Whether they are idle or in the middle of a task of an hour."""
    code = (
        "import sys, os, signal, threading, time\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
        "from test_worker_pool import MANY, pool\n"
        "if __name__ == '__main__':\n"
        "    evaluate = pool(Path(sys.argv[1]), sys.argv[3], 2)\n"
        "    answers = evaluate(MANY)\n"
        "    if sys.argv[3]: threading.Thread(target=list, args=(answers,)).start()\n"
        "    else: list(answers)\n"
        "    while sys.argv[3] and not (Path(sys.argv[1]) / 'happened').exists(): time.sleep(0.05)\n"
        "    print('ready', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    # All descendants hold the output pipe, so `run` returns only after the last of them has ended.
    done = subprocess.run(
        [sys.executable, script, str(tmp_path), str(Path(__file__).parent), mode],
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b"ready\n"
    assert 1 <= len(list(tmp_path.glob("started-*"))) <= 2


def test_late_answers_of_an_abandoned_call_are_discarded(tmp_path):
    """As after a time limit, before the search under another budget."""
    with pool(tmp_path, "", 2) as evaluate:
        for turn in range(5):
            answers = evaluate([(i, turn) for i in range(9)])
            next(answers)
            answers.close()
        others = [(7, i) for i in range(6)]
        assert [e.architecture for e in evaluate(others)] == others


def test_workers_that_die_while_they_start_are_not_started_forever(tmp_path, capsys):
    with (
        pool(tmp_path, "dies at start", 2) as evaluate,
        pytest.raises(RunError, match="before it had started, 3 times in a row"),
    ):
        list(evaluate(MANY))
    assert "ended before it had started (exit status 7); another one starts" in capsys.readouterr().err


def test_any_tasks_and_answers(tmp_path):
    with WorkerPool(ProcessBackend(partial(_shout, "!"), 2), doing="shouting") as shout:
        assert list(shout(["a", "b", "c"])) == ["A!", "B!", "C!"]


def _shout(end: str, number: int):
    return lambda words: [word.upper() + end for word in words]
