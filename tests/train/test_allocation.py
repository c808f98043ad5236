"""Freed memory stays with the process."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys

import pytest

from spos_quant.train import allocation
from spos_quant.train.allocation import keep_freed_memory

FAULTS = """
import json, resource, torch
from spos_quant.train.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(8_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(json.dumps([faults(), keep_freed_memory(), faults(), faults()]))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_pages_are_reused():
    clean = {name: value for name, value in os.environ.items() if name not in allocation._SET_BY_USER}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=clean)
    before, kept, first, later = json.loads(done.stdout)
    assert kept
    assert before > 5 * first
    assert later < 100


def test_malloc_settings_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("malloc was touched"))
    assert not keep_freed_memory()


def test_other_c_libraries_are_not_configured(monkeypatch):
    for name in allocation._SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
