"""Benchmarks in their smallest setting, so that they do not rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_quantizers_run_on_made_up_pictures():
    variants = "baseline,stock,lsq-midrise+ema+progressive"
    command = [sys.executable, str(ROOT / "benchmarks" / "cifar10_quantizers.py"), "--tiny", "--variants", variants]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["w2a2", name] for name in variants.split(",")]


def test_unknown_variants_are_named():
    command = [sys.executable, str(ROOT / "benchmarks" / "cifar10_quantizers.py"), "--tiny", "--variants", "lsq+emma"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown variant 'emma'; expected words of baseline, stock, lsq" in done.stderr
