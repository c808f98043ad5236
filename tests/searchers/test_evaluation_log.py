"""`evaluations.sqlite`: entries survive, damage is reported, and nothing is evaluated twice."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from search_cases import Additive, generations, problem
from toy import toy_space

from spos_quant.errors import RunError
from spos_quant.searchers.base import Evaluation, drive, searchers
from spos_quant.searchers.evaluation_log import FORMAT, EvaluationLog
from spos_quant.searchers.evaluators import CachedEvaluator

SPACE = toy_space(3)
SOME = [
    Evaluation(a, i / 7, None if i % 3 == 0 else i / 11)
    for i, a in enumerate(dict.fromkeys(SPACE.sample_many(np.random.default_rng(0), 40)))
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "evaluations.sqlite"


def fill(path, settings="one", evaluations=SOME):
    with EvaluationLog(path, SPACE, settings) as log:
        for evaluation in evaluations:
            log.add(evaluation)


def test_evaluations_are_read_back_exactly_and_in_order(path):
    fill(path)
    with EvaluationLog(path, SPACE, "one") as log:
        assert list(log) == SOME
        assert len(log) == len(SOME) > 30
        assert [log.get(e.architecture) for e in SOME] == SOME
        other = next(
            a for a in SPACE.sample_many(np.random.default_rng(1), 99) if a not in {e.architecture for e in SOME}
        )
        assert log.get(other) is None
        log.add(Evaluation(other, 0.1 + 0.2, 1e-300))
    with EvaluationLog(path, SPACE, "one") as log:
        assert list(log)[-1] == Evaluation(other, 0.1 + 0.2, 1e-300)


def test_other_settings_are_kept_apart(path):
    fill(path, "one", SOME[:5])
    fill(path, "two", [Evaluation(e.architecture, e.score + 1, 3.0) for e in SOME[3:9]])
    with EvaluationLog(path, SPACE, "one") as one, EvaluationLog(path, SPACE, "two") as two:
        assert list(one) == SOME[:5]
        assert len(two) == 6
        assert one.get(SOME[4].architecture) == SOME[4]
        assert two.get(SOME[4].architecture).score == SOME[4].score + 1
        assert one.get(SOME[8].architecture) is None
        assert two.get(SOME[0].architecture) is None
    with EvaluationLog(path, SPACE, "three") as three:
        assert list(three) == []


def test_the_first_evaluation_of_an_architecture_is_kept(path):
    fill(path, evaluations=[SOME[0], Evaluation(SOME[0].architecture, 99.0), SOME[1]])
    with EvaluationLog(path, SPACE, "one") as log:
        assert list(log) == SOME[:2]


def test_a_newer_format_is_refused_and_not_modified(path):
    fill(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={FORMAT + 1}")
    before = path.read_bytes()
    with pytest.raises(RunError, match=f"has format {FORMAT + 1}; this version reads up to {FORMAT}: update"):
        EvaluationLog(path, SPACE, "one")
    assert path.read_bytes() == before


def test_format_is_written(path):
    fill(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,) == (2,)


@pytest.mark.parametrize("content", [b"no database at all, but long enough to look at" * 40, b"\x00" * 4096])
def test_a_file_of_another_kind_is_refused_and_not_modified(path, content):
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"evaluations\.sqlite: .*delete it to evaluate anew"):
        EvaluationLog(path, SPACE, "one")
    assert path.read_bytes() == content


def test_a_database_of_something_else(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE evaluations (name TEXT)")
    with pytest.raises(RunError, match="no such column"), EvaluationLog(path, SPACE, "one") as log:
        log.get(SOME[0].architecture)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match="unable to open"):
        EvaluationLog(tmp_path / "absent" / "evaluations.sqlite", SPACE, "one")


def test_a_damaged_file_never_raises_an_sqlite_error(path):
    """Overwritten, flipped or truncated anywhere: all evaluations are read, or a RunError says what to do."""
    for extra in range(60):  # many pages
        fill(path, f"settings {extra}")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for turn in range(60):
        data = bytearray(whole)
        if turn % 3 == 0:
            start = int(rng.integers(0, len(data) - 5000))
            data[start : start + 4500] = rng.bytes(4500)
        elif turn % 3 == 1:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        else:
            del data[int(rng.integers(100, len(data))) :]
        path.write_bytes(data)
        for side in ("-wal", "-shm"):
            path.with_name(path.name + side).unlink(missing_ok=True)
        try:
            with EvaluationLog(path, SPACE, "settings 7") as log:
                assert [log.get(e.architecture) for e in SOME] == list(log) == SOME
        except RunError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017 - damage to free pages has no effect
    assert refused > 40


def test_a_changed_value_is_detected(path):
    """SQLite itself cannot detect a changed number."""
    fill(path)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE evaluations SET score = 0.99 WHERE id = 5")
    with EvaluationLog(path, SPACE, "one") as log:
        assert log.get(SOME[3].architecture) == SOME[3]
        for read in (lambda: log.get(SOME[4].architecture), lambda: list(log)):
            with pytest.raises(RunError, match=r"evaluations\.sqlite: the evaluation of .* is damaged; delete"):
                read()


def test_a_format_before_any_release_is_refused(path):
    fill(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=1")
    with pytest.raises(RunError, match="has format 1, before any release; delete it to evaluate anew"):
        EvaluationLog(path, SPACE, "one")


def test_a_full_disk_is_reported(path, monkeypatch):
    with EvaluationLog(path, SPACE, "one") as log:
        log.add(SOME[0])
        log._db.execute("PRAGMA max_page_count=1")
        monkeypatch.setattr(log, "settings", "s" * 60_000)
        with pytest.raises(RunError, match="cannot be written .*make room or mend"):
            log.add(SOME[1])
        monkeypatch.undo()
        assert list(log) == SOME[:1]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from toy import toy_space
from spos_quant.searchers.base import Evaluation
from spos_quant.searchers.evaluation_log import EvaluationLog
space = toy_space(3)
with EvaluationLog(Path(sys.argv[1]), space, "one") as log:
    for i, a in enumerate(dict.fromkeys(space.sample_many(np.random.default_rng(0), 2000))):
        log.add(Evaluation(a, i / 7, i / 11))
        print(i, flush=True)
"""


def test_what_was_logged_survives_kill_9_of_the_writer(path):
    here = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-c", WRITER, str(path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": here})
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 25:
            break
    writer.send_signal(signal.SIGKILL)
    printed = 26 + len(writer.stdout.read().splitlines())
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    expected = list(dict.fromkeys(SPACE.sample_many(np.random.default_rng(0), 2000)))
    assert printed < len(expected), "the writer ended before it was killed"
    with EvaluationLog(path, SPACE, "one") as log:
        found = list(log)
        # one more may have been written and not yet printed
        assert printed <= len(found) <= printed + 1
        assert found == [Evaluation(a, i / 7, i / 11) for i, a in enumerate(expected[: len(found)])]
        log.add(Evaluation(expected[-1], 0.5))
    with EvaluationLog(path, SPACE, "one") as log:
        assert len(log) == len(found) + 1


def test_only_what_is_missing_is_evaluated_and_order_is_kept(path):
    function = Additive(SPACE)
    asked = [e.architecture for e in SOME]
    with EvaluationLog(path, SPACE, "one") as log:
        for e in SOME[1::2]:
            log.add(e)
        found = list(CachedEvaluator(function, log)(asked))
        assert [e.architecture for e in found] == asked
        assert function.asked == asked[0::2]
        assert found[1::2] == SOME[1::2]
        assert [e.score for e in found[0::2]] == [function.score(a) for a in asked[0::2]]
        assert list(CachedEvaluator(function, log)(asked)) == found
        assert len(function.asked) == len(asked[0::2])
    assert list(CachedEvaluator(function, EvaluationLog(path, SPACE, "one"))(asked)) == found


def test_new_evaluations_are_on_disk_before_they_are_yielded(path):
    with EvaluationLog(path, SPACE, "one") as log, EvaluationLog(path, SPACE, "one") as reader:
        for i, evaluation in enumerate(CachedEvaluator(Additive(SPACE), log)([e.architecture for e in SOME[:4]])):
            assert len(reader) == i + 1
            assert reader.get(evaluation.architecture) == evaluation


def test_an_architecture_named_twice_is_evaluated_once(path):
    a, b, c = (e.architecture for e in SOME[:3])
    function = Additive(SPACE)
    with EvaluationLog(path, SPACE, "one") as log:
        found = list(CachedEvaluator(function, log)([a, a, b, a, c]))
    assert [e.architecture for e in found] == [a, a, b, a, c]
    assert [e.score for e in found] == [function.score(x) for x in (a, a, b, a, c)]
    assert function.asked == [a, b, c]


def test_another_process_may_write_to_the_log_meanwhile(path):
    function = Additive(SPACE)
    asked = [e.architecture for e in SOME[:6]]
    with EvaluationLog(path, SPACE, "one") as log, EvaluationLog(path, SPACE, "one") as other:
        found = []
        for evaluation in CachedEvaluator(function, log)(asked):
            found.append(evaluation)
            if len(found) == 1:
                for a in asked[2:4]:
                    other.add(Evaluation(a, function.score(a), 0.0))
    assert [e.architecture for e in found] == asked
    assert [e.score for e in found] == [function.score(a) for a in asked]


@pytest.mark.parametrize("name", list(searchers))
@pytest.mark.parametrize("lost_after", [0, 1, 17, 71])
def test_an_interrupted_search_resumes(path, name, lost_after):
    p = problem(SPACE, bitops="50%")
    whole = [s for generation in generations(name, p, Additive(SPACE)) for s in generation]
    lost_after = min(lost_after, len(whole) - 1)

    def run(function):
        with EvaluationLog(path, SPACE, "one") as log:
            costs, keeps = p.sampler.table.totals, p.sampler.keeps
            return drive(searchers[name](p), CachedEvaluator(function, log), costs, keeps)

    class Broken(Additive):
        def __call__(self, architectures):
            for evaluation in super().__call__(architectures):
                if len(self.asked) > lost_after:
                    raise KeyboardInterrupt
                yield evaluation

    with pytest.raises(KeyboardInterrupt):
        run(Broken(SPACE))
    function = Additive(SPACE)
    outcome = run(function)
    assert outcome.results == whole
    assert function.asked == [s.architecture for s in whole[lost_after:]]
