"""A lock for one owner of a run directory, which the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spos_quant.errors import RunError
from spos_quant.progress import remark
from spos_quant.run_dir.checksums import settle
from spos_quant.run_dir.files import DRAFT, not_written

NAME = "run.lock"
_held: set[int] = set()
_ORPHAN_SECONDS = 10.0
"""How long to wait for child processes of a dead owner, which hold its lock."""


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Makes this process the owner of a run directory, which is created if missing.

    The kernel's lock (`flock`) is released if the owner is killed. Temporary files that it left are removed.

    Raises:
        RunError: another process owns the directory; the message says which.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise not_written(path, error) from None
    try:
        _lock(handle, folder)
        _sign(handle)
        for draft in folder.rglob(f".*{DRAFT}"):
            draft.unlink(missing_ok=True)
        settle(folder)
        _held.add(handle)
        yield
        os.ftruncate(handle, 0)
    finally:
        _held.discard(handle)
        os.close(handle)


def locks() -> tuple[int, ...]:
    """File descriptors of the locks that this process holds; a process that inherits them also holds the locks."""
    return tuple(_held)


def _lock(handle: int, folder: Path) -> None:
    start = time.monotonic()
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            # Children of a killed process end shortly after it.
            if not _dead(holder) or time.monotonic() - start > _ORPHAN_SECONDS:
                raise RunError(
                    f"{folder} is in use by {_named(holder)}; wait for it or stop it, or choose another --out"
                ) from None
            time.sleep(0.1)
        except OSError as error:
            # Some network file systems do not support locks; using them is the user's decision.
            return remark(f"warning: {folder} cannot be locked ({error.strerror}); start no second command in it")


def _sign(handle: int) -> None:
    """Writes the holder into the lock file, for messages only; the lock does not depend on it."""
    command = " ".join(["spos-quant", *sys.argv[1:]])
    try:
        os.ftruncate(handle, 0)
        os.pwrite(
            handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command}).encode(), 0
        )
    except OSError:
        return  # the next write to the run reports a full disk


def _holder(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(handle, 10_000, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _dead(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _named(holder: dict[str, Any]) -> str:
    if not {"pid", "host", "command"} <= holder.keys():
        return "another process"
    where = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
    return f"process {holder['pid']}{where} ({str(holder['command'])[:200]})"
