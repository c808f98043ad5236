"""Progress and remarks on stderr: a bar with rate and time left in a terminal, otherwise occasional lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")
LINE_EVERY_SECONDS = 15.0


class Tick(Protocol):
    """Called once per unit of work, with an optional note such as the loss."""

    def __call__(self, note: str = "") -> None:
        """Reports that one unit is done."""


def remark(text: str) -> None:
    """Prints a line to stderr that is neither progress nor an error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def tracked(items: Iterable[T], label: str, total: int, *, unit: str, show: bool = True) -> Iterator[T]:
    """Yields `items` and shows how many of `total` are done."""
    with progress(label, total, unit=unit, show=show) as tick:
        for item in items:
            yield item
            tick()


@contextmanager
def progress(label: str, total: int, *, unit: str, show: bool = True, done: int = 0) -> Iterator[Tick]:
    """Shows the progress of `total` units of work.

    Args:
        label: What is being done.
        total: Number of units, including `done`.
        unit: Name of the units, in the plural.
        show: False shows nothing.
        done: Units that were done before; they do not count for the rate.
    """
    if not show:
        yield _silent
    elif sys.stderr.isatty():
        with _bar(label, total, unit, done) as tick:
            yield tick
    else:
        yield _lines(label, total, unit, done)


def _silent(note: str = "") -> None:
    del note


@contextmanager
def _bar(label: str, total: int, unit: str, done: int) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done, note="", rate="")
        count = 0

        def tick(note: str = "") -> None:
            nonlocal count
            count += 1
            rate = f"{count / max(time.monotonic() - start, 1e-9):.1f}/s"
            bar.update(task, advance=1, rate=rate, note=note)

        yield tick


def _lines(label: str, total: int, unit: str, done: int) -> Tick:
    start = last = time.monotonic()
    count = 0

    def tick(note: str = "") -> None:
        nonlocal count, last
        count += 1
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS or done + count == total:
            last = now
            rate = count / max(now - start, 1e-9)
            left = (total - done - count) / rate
            text = f"{label}: {done + count} of {total} {unit}, {rate:.1f}/s, {left:.0f} s left {note}"
            sys.stderr.write(text.rstrip() + "\n")
            sys.stderr.flush()

    return tick
