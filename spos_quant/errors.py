"""What goes wrong because of something a person typed or handed in.

Every class here ends a command with exit status 2 and its message, never a traceback. A message says what was wrong,
what was expected and what to do. Our own mistakes are plain assertions and exit with status 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_WORD, _LONGEST_TEXT = 300, 1_500


class SposQuantError(Exception):
    """Base of all errors that are the user's to mend. Its text is one printable line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(SposQuantError, ValueError):
    """A configuration key or value, a command-line option or a combination of them."""


class SpaceError(SposQuantError, ValueError):
    """A search space, an architecture or a bit configuration."""


class BudgetError(SposQuantError, ValueError):
    """A budget that cannot be read or that no architecture keeps."""


class DataError(SposQuantError, ValueError):
    """A data set that is missing, empty, unreadable or of other classes."""


class ModelError(SposQuantError, ValueError):
    """A model, its weights or its input."""


class ExportError(SposQuantError, RuntimeError):
    """A model that a file format cannot hold, or a file that does not answer as the model does."""


class RunError(SposQuantError, RuntimeError):
    """A run directory: missing, damaged, or of other settings."""


def printable(text: str) -> str:
    """`text`, which may quote what anyone handed in, without line breaks and control codes and of bounded length."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    words = (_middle(word, _LONGEST_WORD) for word in line.split(" "))
    return _middle(" ".join(words), _LONGEST_TEXT)


def _middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 3 :]}"


def near(word: object, known: Iterable[str], *, limit: int = 12) -> str:
    """The tail of a message about an unknown `word`: its nearest match, then what is known.

    Returns:
        `; did you mean 'x'? (known: a, b, x)`, shortened where many are known.
    """
    names = sorted(known)
    match = difflib.get_close_matches(str(word)[:_LONGEST_WORD], names, n=1, cutoff=0.55)
    guess = f"; did you mean {match[0]!r}?" if match else ";"
    listed = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return f"{guess} (known: {listed})" if names else f"{guess} none is known"
