"""Artifacts: files of a run whose SHA-256 is listed in their folder, in the format of `sha256sum -c`.

A file and its checksum cannot be replaced atomically. So the new checksum is added first, then the file is replaced,
then the old checksum is removed: whenever the process is killed, the file matches a listed checksum.
"""

from __future__ import annotations

import errno
import hashlib
import re
from pathlib import Path
from typing import Any

from spos_quant.errors import RunError
from spos_quant.run_dir.files import digest, json_text, not_written, read_json, write_bytes, write_text

NAME = "checksums.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_SEAL = "# "
"""Prefix of the last line, a comment for `sha256sum`: the checksum of the lines above it."""
_Listed = dict[str, tuple[str, ...]]


def store(path: Path, data: bytes) -> None:
    """Writes an artifact atomically and lists its checksum. Raises `RunError` if it cannot be written."""
    listed = _read(path.parent)
    new = hashlib.sha256(data).hexdigest()
    _write(path.parent, {**listed, path.name: tuple(dict.fromkeys((*listed.get(path.name, ()), new)))})
    write_bytes(path, data)
    _write(path.parent, {**listed, path.name: (new,)})


def store_json(path: Path, value: Any) -> None:
    """Writes an artifact of indented JSON."""
    store(path, json_text(value).encode("utf-8"))


def read_artifact(path: Path, kind: type = dict) -> Any:
    """The value of a JSON artifact, as `read_json` returns it. Raises `RunError` if it is missing or damaged."""
    check(path)
    return read_json(path, kind)


def check(path: Path) -> None:
    """Verifies the checksum of a file. Files that are not listed were not made by a run and pass.

    Raises:
        RunError: the file was changed or damaged after it was written, or the list of checksums is damaged.
    """
    expected = _read(path.parent).get(path.name)
    if expected is not None and path.is_file() and digest(path) not in expected:
        raise RunError(
            f"{path}: is damaged or was changed: its SHA-256 is not the one in {NAME}; delete it and repeat the "
            "command that made it to have it made anew"
        )


def listed(path: Path) -> tuple[str, ...]:
    """The listed checksums of a file: none if it is not listed, several if replacing it was interrupted."""
    return _read(path.parent).get(path.name, ())


def drop(*paths: Path) -> None:
    """Deletes artifacts and their checksums; missing ones are skipped."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise not_written(path, error) from None
        known = _read(path.parent)
        if known.pop(path.name, None) is not None:
            _write(path.parent, known)


def settle(folder: Path) -> None:
    """Removes checksums that do not match their file, left by a process that was stopped while replacing it.

    Raises:
        RunError: a list is damaged or cannot be written.
    """
    for path in folder.rglob(NAME):
        known = _read(path.parent)
        settled = {name: _matching(path.with_name(name), values) for name, values in known.items()}
        if settled != known:
            _write(path.parent, settled)


def _matching(path: Path, values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) == 1 or not path.is_file():
        return values[:1]
    found = digest(path)
    return (found,) if found in values else values


def _read(folder: Path) -> _Listed:
    path = folder / NAME
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except ValueError:  # a NUL character in the path
        return {}
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return {}
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    *lines, seal = text.splitlines() or [""]
    matches = [_LINE.fullmatch(line) for line in lines]
    if seal != _seal(lines) or None in matches:
        raise RunError(
            f"{path}: is damaged; delete it: the files beside it are then read unchecked until they are made anew"
        )
    found: _Listed = {}
    for match in matches:
        assert match is not None
        found[match[2]] = (*found.get(match[2], ()), match[1])
    return found


def _write(folder: Path, files: _Listed) -> None:
    lines = [f"{value}  {name}" for name in sorted(files) for value in files[name]]
    write_text(folder / NAME, "\n".join([*lines, _seal(lines)]) + "\n")


def _seal(lines: list[str]) -> str:
    return _SEAL + hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()
