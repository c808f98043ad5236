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
def test_pages_are_cleared_once():
    clean = {name: value for name, value in os.environ.items() if name not in allocation._SET_BY_USER}
    said = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=clean)
    given_back, kept, first, later = json.loads(said.stdout)
    assert kept
    assert given_back > 5 * first
    assert later < 100


def test_who_sets_malloc_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("malloc was touched"))
    assert not keep_freed_memory()


def test_other_libraries_are_left_alone(monkeypatch):
    for name in allocation._SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
