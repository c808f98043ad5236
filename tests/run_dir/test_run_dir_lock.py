"""One owner of a run directory: a live owner is named in the error, the lock of a dead one is taken over."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from spos_quant.errors import RunError
from spos_quant.run_dir import LOCK, claim, store_json

OWNER = """
import sys, subprocess
from pathlib import Path
from spos_quant.run_dir import claim, locks
with claim(Path(sys.argv[1])):
    if len(sys.argv) > 2:
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({sys.argv[2]})"], pass_fds=locks())
    print("mine", flush=True)
    sys.stdin.read()
"""


def owner(folder, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_second_process_is_told_who_owns_the_run(tmp_path):
    run = tmp_path / "run"
    process = owner(run)
    told = rf"run is in use by process {process.pid} \(spos-quant .*\); wait for it"
    with pytest.raises(RunError, match=told), claim(run):
        pass
    process.communicate("")
    with claim(run):
        assert (run / LOCK).stat().st_size > 0
    assert (run / LOCK).stat().st_size == 0


def test_the_lock_of_a_dead_owner_is_taken_over_and_its_drafts_are_removed(tmp_path):
    process = owner(tmp_path)
    store_json(tmp_path / "results" / "x.json", 1)
    draft = tmp_path / "results" / ".x.json.abc.tmp"
    draft.write_text("half")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with claim(tmp_path):
        assert not draft.exists()
        assert (tmp_path / "results" / "x.json").exists()


def test_children_of_a_dead_owner_are_waited_for(tmp_path):
    process = owner(tmp_path, "1")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with claim(tmp_path):
        pass


def test_an_invalid_lock_file_is_ignored(tmp_path):
    for text in ("", "{", "[1]", '{"pid": "x", "host": 3}'):
        (tmp_path / LOCK).write_text(text)
        with claim(tmp_path):
            pass


def test_a_process_may_own_a_run_again_but_not_twice_at_once(tmp_path):
    with claim(tmp_path), pytest.raises(RunError, match="in use by process"), claim(tmp_path):
        pass
    with claim(tmp_path):
        pass


def test_a_path_that_cannot_be_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written"), claim(tmp_path / "file"):
        pass
