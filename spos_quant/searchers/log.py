"""`evaluations.sqlite`: every evaluation of a run, the only state of a search.

An evaluation belongs to the run, not to a budget or a searcher: searching again with the same seed asks for the same
architectures in the same order and finds them here, which is what resuming is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from spos_quant.errors import RunError
from spos_quant.searchers.base import Evaluation
from spos_quant.space.search_space import Architecture, SearchSpace

FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (
    id INTEGER PRIMARY KEY, settings TEXT NOT NULL, architecture TEXT NOT NULL, score REAL NOT NULL, loss REAL,
    UNIQUE (settings, architecture)
)
"""


class EvaluationLog:
    """The evaluations of one run under one evaluator.

    Args:
        path: The SQLite file; made where it is missing.
        space: Encodes architectures.
        settings: Identifies supernet and evaluator; evaluations under other settings are kept but not used.

    Raises:
        RunError: the file is damaged, cannot be written, or was written in a newer format.
    """

    def __init__(self, path: Path, space: SearchSpace, settings: str) -> None:
        self.path, self.space, self.settings = path, space, settings
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > FORMAT:
                self._db.close()
                raise RunError(f"{path} has format {version}; this version reads up to {FORMAT}: update spos-quant")
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        except sqlite3.Error as error:
            raise RunError(f"{path}: {error}; delete it to evaluate anew") from None

    def __enter__(self) -> EvaluationLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; a search that goes on later opens it again."""
        self._db.close()

    def get(self, architecture: Architecture) -> Evaluation | None:
        """The evaluation of an architecture, None where it was never evaluated under these settings."""
        row = self._db.execute(
            "SELECT score, loss FROM evaluations WHERE settings = ? AND architecture = ?",
            (self.settings, self.space.encode(architecture)),
        ).fetchone()
        return None if row is None else Evaluation(architecture, row[0], row[1])

    def add(self, evaluation: Evaluation) -> None:
        """Appends an evaluation; it is on disk when this returns."""
        try:
            self._db.execute(
                "INSERT OR IGNORE INTO evaluations (settings, architecture, score, loss) VALUES (?, ?, ?, ?)",
                (self.settings, self.space.encode(evaluation.architecture), evaluation.score, evaluation.loss),
            )
        except sqlite3.Error as error:
            raise RunError(
                f"{self.path}: cannot be written ({error}); free some space and repeat the command"
            ) from None

    def __iter__(self) -> Iterator[Evaluation]:
        rows = self._db.execute(
            "SELECT architecture, score, loss FROM evaluations WHERE settings = ? ORDER BY id", (self.settings,)
        )
        for text, score, loss in rows:
            yield Evaluation(self.space.decode(text), score, loss)

    def __len__(self) -> int:
        (count,) = self._db.execute("SELECT COUNT(*) FROM evaluations WHERE settings = ?", (self.settings,)).fetchone()
        return int(count)
