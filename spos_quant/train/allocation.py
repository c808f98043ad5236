"""What becomes of memory that is no longer used: kept for the next tensor, or given back to the system."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_EVERYTHING = 2**31 - 1
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Has glibc keep what this process frees; a process keeps its largest size until it ends. False where it cannot.

    A pass of evaluation frees every activation soon after it was made, a step of training when it ends. glibc gives
    such large pieces back to the system, which clears every page of them when the next layer asks: up to half of the
    time of a pass (`benchmarks/freed_memory.py`). Who has set glibc's malloc by environment variables is left alone;
    other libraries of the C language have their own ways.
    """
    if any(name in os.environ for name in _SET_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    return all(mallopt(what, _EVERYTHING) == 1 for what in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
