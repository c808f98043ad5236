"""`evaluations.sqlite`: every evaluation of a run, the only state of a search.

An evaluation belongs to the run, not to a budget or a searcher. A search resumes by running again: with the same seed
it asks for the same architectures in the same order and finds them here.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from spos_quant.errors import RunError
from spos_quant.searchers.base import Evaluation
from spos_quant.space.search_space import Architecture, SearchSpace

FORMAT = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (
    id INTEGER PRIMARY KEY, settings TEXT NOT NULL, architecture TEXT NOT NULL, score REAL NOT NULL, loss REAL,
    checksum TEXT NOT NULL, UNIQUE (settings, architecture)
)
"""


class EvaluationLog:
    """The evaluations of one run under one evaluator.

    Args:
        path: The SQLite file; created if missing.
        space: Encodes architectures.
        settings: Identifies supernet and evaluator. Evaluations under other settings are kept but not used.

    Raises:
        RunError: the file is damaged, cannot be written, or was written in a newer format.
    """

    def __init__(self, path: Path, space: SearchSpace, settings: str) -> None:
        self.path, self.space, self.settings = path, space, settings
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise self._error(error) from None
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        self._run("PRAGMA journal_mode=WAL")
        self._run("PRAGMA synchronous=FULL")
        ((version,),) = self._run("PRAGMA user_version")
        if version > FORMAT:
            raise RunError(f"{self.path} has format {version}; this version reads up to {FORMAT}: update spos-quant")
        if 0 < version < FORMAT:
            raise RunError(f"{self.path} has format {version}, before any release; delete it to evaluate anew")
        # SQLite reads a truncated page as zeros and trusts an incomplete index; only this check detects both.
        ((found, *_), *_) = self._run("PRAGMA integrity_check(1)")
        if found != "ok":
            raise RunError(f"{self.path}: is damaged ({' '.join(found.split())}); delete it to evaluate anew")
        self._run(_SCHEMA)
        self._run(f"PRAGMA user_version={FORMAT}")

    def _run(self, statement: str, *values: str) -> list[Any]:
        try:
            return self._db.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter if a message of SQLite quotes a damaged name
            raise self._error(error) from None

    def _error(self, error: Exception) -> RunError:
        return RunError(f"{self.path}: {error}; if no other command is using it, delete it to evaluate anew")

    def __enter__(self) -> EvaluationLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def get(self, architecture: Architecture) -> Evaluation | None:
        """The evaluation of an architecture; None if it was not evaluated under these settings."""
        text = self.space.encode(architecture)
        rows = self._run(
            "SELECT score, loss, checksum FROM evaluations WHERE settings = ? AND architecture = ?", self.settings, text
        )
        return self._checked(text, *rows[0]) if rows else None

    def add(self, evaluation: Evaluation) -> None:
        """Appends an evaluation, which is on disk when this returns."""
        text, score, loss = self.space.encode(evaluation.architecture), evaluation.score, evaluation.loss
        try:
            self._db.execute(
                "INSERT OR IGNORE INTO evaluations (settings, architecture, score, loss, checksum) "
                "VALUES (?, ?, ?, ?, ?)",
                (self.settings, text, score, loss, self._checksum(text, score, loss)),
            )
        except sqlite3.Error as error:
            raise RunError(
                f"{self.path}: cannot be written ({error}); make room or mend the permissions, then repeat the command"
            ) from None

    def _checksum(self, text: str, score: float, loss: float | None) -> str:
        """SQLite detects damage to its structure but not to a value."""
        return hashlib.sha256(repr((self.settings, text, score, loss)).encode()).hexdigest()[:16]

    def _check(self, text: str, score: float, loss: float | None, checksum: str) -> None:
        if checksum != self._checksum(text, score, loss):
            raise RunError(
                f"{self.path}: the evaluation of {text} is damaged; delete the file and repeat the command to evaluate "
                "anew"
            )

    def _checked(self, text: str, score: float, loss: float | None, checksum: str) -> Evaluation:
        self._check(text, score, loss, checksum)
        return Evaluation(self.space.decode(text), score, loss)

    def columns(self) -> tuple[list[str], list[float], list[float | None]]:
        """Encoded architectures, scores and losses of all evaluations, in order; millions take seconds."""
        rows = self._rows()
        for row in rows:
            self._check(*row)
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]

    def _rows(self) -> list[Any]:
        return self._run(
            "SELECT architecture, score, loss, checksum FROM evaluations WHERE settings = ? ORDER BY id", self.settings
        )

    def __iter__(self) -> Iterator[Evaluation]:
        for row in self._rows():
            yield self._checked(*row)

    def count_with_other_settings(self, known: Collection[str]) -> int:
        """Number of evaluations under settings other than `known`."""
        marks = ", ".join("?" * len(known))
        ((count,),) = self._run(f"SELECT COUNT(*) FROM evaluations WHERE settings NOT IN ({marks})", *known)
        return int(count)

    def __len__(self) -> int:
        ((count,),) = self._run("SELECT COUNT(*) FROM evaluations WHERE settings = ?", self.settings)
        return int(count)
