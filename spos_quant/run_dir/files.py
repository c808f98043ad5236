"""Atomic file writes, JSON and digests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from spos_quant.errors import RunError

DRAFT = ".tmp"
"""Suffix of temporary files; the next owner of a run removes those that a killed process left."""


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: a temporary file, fsync, rename.

    Raises:
        RunError: for example, the disk is full, the folder cannot be written or the name is too long.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=DRAFT)
    except OSError as error:
        raise not_written(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            _write(file.fileno(), data)
            os.fsync(file.fileno())
        Path(draft).chmod(0o666 & ~_umask())
        Path(draft).replace(path)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        # A no-op after the rename. Errors are ignored: the first error is the one to report.
        _remove(Path(draft))


def cache_dir(*parts: str) -> Path:
    """A folder for reproducible files under `$XDG_CACHE_HOME/spos_quant` (`~/.cache/spos_quant`); not created."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says that relative paths must be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache").joinpath("spos_quant", *parts)


def not_written(path: Path, error: OSError) -> RunError:
    """The error to raise if a file cannot be written."""
    return RunError(
        f"{path}: cannot be written ({error.strerror or error}); make room or mend the permissions, then repeat the "
        "command: what is finished is kept"
    )


def _write(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON that ends in a newline."""
    return json.dumps(value, indent=1) + "\n"


def read_json(path: Path, kind: type = dict) -> Any:
    """The value of a JSON file. Raises `RunError` if it cannot be read, is no JSON or is not of type `kind`."""
    try:
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, kind):
            raise ValueError(f"expected a {kind.__name__}, got {type(value).__name__}")
        return value
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path}: is damaged ({str(error)[:80]}); delete it and repeat the command to make it anew"
        ) from None


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises `RunError` if it cannot be read."""
    try:
        found = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
        return found.hexdigest()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
