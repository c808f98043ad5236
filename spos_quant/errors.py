"""Errors that users cause by their input.

A command that raises one of them prints its message, without a traceback, and exits with status 2. A message says what
was wrong, what was expected and what to do. Bugs of spos_quant are plain assertions and exit with status 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_WORD, _LONGEST_TEXT = 300, 1_500


class SposQuantError(Exception):
    """Base of all errors that the user can fix. Its text is one printable line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(SposQuantError, ValueError):
    """An invalid configuration key or value, command-line option or combination of them."""


class SpaceError(SposQuantError, ValueError):
    """An invalid search space, architecture or bit configuration."""


class BudgetError(SposQuantError, ValueError):
    """A budget that is invalid or that no architecture is within."""


class DataError(SposQuantError, ValueError):
    """A data set that is missing, empty, unreadable or has other classes."""


class ModelError(SposQuantError, ValueError):
    """An unsupported model, or weights or input that do not fit it."""


class ExportError(SposQuantError, RuntimeError):
    """A model that a file format cannot represent, or a file whose outputs differ from the model's."""


class RunError(SposQuantError, RuntimeError):
    """A run directory that is missing, damaged or has other settings."""


def printable(text: str) -> str:
    """`text`, which may quote any input, without line breaks and control characters and of bounded length."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    words = (_middle(word, _LONGEST_WORD) for word in line.split(" "))
    return _middle(" ".join(words), _LONGEST_TEXT)


def _middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 3 :]}"


def near(word: object, known: Iterable[str], *, limit: int = 12) -> str:
    """The end of a message about an unknown `word`: the nearest known word, then the known words.

    Returns:
        `; did you mean 'x'? (known: a, b, x)`, with at most `limit` known words.
    """
    names = sorted(known)
    match = difflib.get_close_matches(str(word)[:_LONGEST_WORD], names, n=1, cutoff=0.55)
    guess = f"; did you mean {match[0]!r}?" if match else ";"
    listed = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return f"{guess} (known: {listed})" if names else f"{guess} none is known"
