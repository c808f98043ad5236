"""A CSV file with one row per step that stays usable after a kill at any time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from spos_quant.errors import RunError
from spos_quant.loggers.base import unwritable
from spos_quant.run_dir import write_text

Row = tuple[int, Mapping[str, float]]


class StepTable:
    """A CSV file with the column `step`, then names in alphabetical order. An empty cell means that there is no value.

    Opening drops rows of `from_step` and later, which will be logged again, and rows that cannot be parsed, for example
    a last row that a killed process wrote partially. When `log` returns, its row has been written to the operating
    system. A new name adds a column and rewrites the file atomically.

    Raises:
        RunError: The file cannot be read or written, or is not such a table.
    """

    def __init__(self, path: Path, from_step: int) -> None:
        self.path = path
        rows = [row for row in read_rows(path) if row[0] < from_step]
        self._write(rows)

    def rows(self) -> list[Row]:
        """All rows, including those of earlier processes."""
        return read_rows(self.path)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Appends a row."""
        if values.keys() - set(self._names):
            rows = self.rows()
            self.close()
            self._write([*rows, (step, values)])
            return
        data = _text(self._names, [(step, values)]).encode("utf-8")
        try:
            while data:  # an unbuffered write may be partial
                data = data[self._file.write(data) :]
        except OSError as error:
            self.close()
            raise unwritable(self.path, error) from None

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        with suppress(OSError):
            self._file.close()

    def _write(self, rows: list[Row]) -> None:
        self._names = sorted({name for _, values in rows for name in values})
        try:
            write_text(self.path, _line(["step", *self._names]) + _text(self._names, rows))
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise unwritable(self.path, error) from None


def read_rows(path: Path) -> list[Row]:
    """The rows of a file whose last row may be partial; none if the file is missing."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = list(csv.reader(io.StringIO(whole, newline="")))
    except csv.Error as error:
        raise RunError(f"{path}: is damaged ({error}); move it elsewhere and repeat the command") from None
    if not text:
        return []
    if not lines or lines[0][:1] != ["step"]:
        raise RunError(f"{path}: is no log (its first column is not 'step'); move it elsewhere and repeat the command")
    rows = (_row(lines[0], cells) for cells in lines[1:])
    return [row for row in rows if row is not None]


def _row(header: list[str], cells: list[str]) -> Row | None:
    if len(cells) != len(header):
        return None
    try:
        values = {name: float(cell) for name, cell in zip(header[1:], cells[1:], strict=True) if cell}
        return int(cells[0]), values
    except ValueError:
        return None


def _text(names: Iterable[str], rows: Iterable[Row]) -> str:
    names = list(names)
    return "".join(
        _line([str(step), *(repr(values[name]) if name in values else "" for name in names)]) for step, values in rows
    )


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
