"""Fuzzed search spaces and bit configurations: each is read or refused with a message, and none runs code."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from cli_cases import contents, refused
from fuzz_files import Fuzz

HANG_SECONDS = 60


class Hang(BaseException):
    """Raised in a command that hangs. A `BaseException`, so that no `except Exception` catches it."""


@contextmanager
def watched():
    """Raises `Hang` after `HANG_SECONDS`."""

    def stop(number, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(call, tmp_path, kind, data, must_be_read):
    """Passes a file to `cost`; asserts what holds for every file and returns `read` or `refused`."""
    path = tmp_path / ("x.yaml" if kind == "space" else "b.json")
    path.write_bytes(data)
    arguments = ["cost", "x.yaml"] if kind == "space" else ["cost", "digits-mixed", "--bits", "b.json"]
    with watched():
        result = call(*arguments)
    assert contents(tmp_path) == [path.name], "something else was written"
    path.unlink()
    status, out, err = result
    assert "internal error" not in err
    if status == 0:
        assert out
        assert err == ""
        return "read"
    refused(result, "error: ")
    assert not must_be_read, err
    return "refused"


def fuzz(call, tmp_path, n, seed):
    """Counts the outcomes of `n` files; a failure shows the file and its seed."""
    made = Fuzz(np.random.default_rng(seed), str(tmp_path / "ran"))
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(n):
        kind = "space" if number % 2 else "config"
        data, must_be_read = made.space() if kind == "space" else made.config()
        try:
            counts[kind, answer(call, tmp_path, kind, data, must_be_read)] += 1
        except (AssertionError, Hang) as error:
            shown = data if len(data) < 3000 else data[:1500] + b" ... " + data[-1500:]
            pytest.fail(f"file {number} of seed {seed}, a {kind}: {type(error).__name__} {error}\n{shown!r}")
    return counts


def test_some_files(call, tmp_path):
    counts = fuzz(call, tmp_path, 60, seed=1)
    assert min(counts[kind, done] for kind in ("space", "config") for done in ("read", "refused")) >= 3


@pytest.mark.slow
def test_two_thousand_files(call, tmp_path, record_property, capsys):
    counts = fuzz(call, tmp_path, 2_000, seed=2)
    with capsys.disabled():
        print(*sorted(counts.items()))  # noqa: T201
    for (kind, done), n in counts.items():
        record_property(f"{kind} {done}", n)
    assert sum(counts.values()) == 2_000
    # Both outcomes occur for both kinds, so the tests reach the parsers and the code after them.
    assert min(counts[kind, done] for kind in ("space", "config") for done in ("read", "refused")) >= 150
