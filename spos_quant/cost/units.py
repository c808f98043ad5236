"""Counts as people read them."""

from __future__ import annotations


def human(value: float) -> str:
    """A count for people, rounded to four digits: `2.307M`."""
    for suffix, factor in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{suffix}"
    return f"{value:.4g}"
