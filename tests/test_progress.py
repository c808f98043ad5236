"""Progress on stderr: nothing if switched off, lines in logs, a bar in terminals."""

from __future__ import annotations

import io
import re
import sys

import pytest

from spos_quant import progress as module
from spos_quant.progress import LINE_EVERY_SECONDS, progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def ticks(clock, seconds, *, total, done=0, note="", **options):
    with progress("work", total, unit="steps", done=done, **options) as tick:
        for pause in seconds:
            clock.now += pause
            tick(note)


def test_silent_if_switched_off(clock, capsys):
    ticks(clock, [100.0] * 4, total=4, note="loss 1", show=False)
    assert capsys.readouterr() == ("", "")


def test_a_line_at_the_end(clock, capsys):
    ticks(clock, [0.5] * 4, total=4, note="loss 0.123")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "work: 4 of 4 steps, 2.0/s, 0 s left loss 0.123\n"


def test_a_line_now_and_then(clock, capsys):
    ticks(clock, [5.0] * 10, total=20)
    assert capsys.readouterr().err.splitlines() == [
        "work: 3 of 20 steps, 0.2/s, 85 s left",
        "work: 6 of 20 steps, 0.2/s, 70 s left",
        "work: 9 of 20 steps, 0.2/s, 55 s left",
    ]


def test_units_done_before_count_for_the_position_but_not_for_the_rate(clock, capsys):
    ticks(clock, [LINE_EVERY_SECONDS, 1.0], total=10, done=7)
    assert capsys.readouterr().err == "work: 8 of 10 steps, 0.1/s, 30 s left\n"


def test_resumed_work_also_ends_with_a_line(clock, capsys):
    ticks(clock, [0.5] * 3, total=10, done=7)
    assert capsys.readouterr().err == "work: 10 of 10 steps, 2.0/s, 0 s left\n"


def test_nothing_is_printed_before_the_first_unit(clock, capsys):
    ticks(clock, [], total=3)
    assert capsys.readouterr().err == ""


def test_many_fast_steps_make_one_line(clock, capsys):
    ticks(clock, [0.001] * 2000, total=2000)
    assert len(capsys.readouterr().err.splitlines()) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("done", [0, 3])
def test_a_bar_in_a_terminal(monkeypatch, done):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "150")
    with progress("search", 5, unit="architectures", done=done) as tick:
        tick("score 0.5")
        tick("score [0.75]")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    last = shown.strip().splitlines()[-1]
    assert f"{done + 2}/5" in last
    assert "architectures" in last
    assert re.search(r"\d+\.\d/s", last)
    assert "score" in last
    assert last.startswith("search")


def test_an_error_inside_passes_through(monkeypatch):
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(ValueError, match="mine"), progress("work", 3, unit="steps") as tick:
            tick()
            raise ValueError("mine")
