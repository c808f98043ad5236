"""Counts and times as people read them."""

from __future__ import annotations

LATENCY = "latency"
"""The cost metric whose values are nanoseconds; all others are counts."""


def human(value: float) -> str:
    """A count for people, rounded to four digits: `2.307M`."""
    for suffix, factor in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{suffix}"
    return f"{value:.4g}"


def duration(nanoseconds: float) -> str:
    """A time for people, rounded to four digits: `2.307 ms`."""
    for unit, factor in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.4g} {unit}"
    return f"{nanoseconds:.4g} ns"


def amount(metric: str, value: float) -> str:
    """The value of a cost metric for people."""
    return duration(value) if metric == LATENCY else human(value)
