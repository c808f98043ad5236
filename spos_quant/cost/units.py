"""Formats counts and times for people."""

from __future__ import annotations


def human(value: float) -> str:
    """A count, rounded to four digits: `2.307M`."""
    for suffix, factor in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{suffix}"
    return f"{value:.4g}"


def duration(nanoseconds: float) -> str:
    """A time, rounded to four digits: `2.307 ms`."""
    for unit, factor in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.4g} {unit}"
    return f"{nanoseconds:.4g} ns"
