"""glibc malloc settings: keep freed memory for the next tensor instead of returning it to the system."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_EVERYTHING = 2**31 - 1
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Makes glibc keep the memory that this process frees, so that the process never shrinks.

    An evaluation pass frees every activation soon after computing it, a training step at its end. By default glibc
    returns such large blocks to the system, which clears every page on the next allocation: up to half of the time of a
    pass (`benchmarks/freed_memory.py`). Does nothing if the user configured malloc by environment variables.

    Returns:
        Whether the setting was applied; False with other C libraries.
    """
    if any(name in os.environ for name in _SET_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    return all(mallopt(what, _EVERYTHING) == 1 for what in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
