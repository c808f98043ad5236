"""Costs, feasible samples and commands: interactive work before any training.

Claim: a million architectures of a per-layer ResNet-50 are costed in less than a second; 10,000 architectures are
sampled in less than 0.2 s if less than one in a hundred is feasible; `--help`, `spaces` and `cost` take less than half
a second.
Lower bound: for the commands, the start of Python. `cost` exceeds it: it reads a space, and most of its time are the
imports of numpy and pydantic and the classes that validate settings.

    pytest benchmarks/test_cost.py --benchmark-only -n0
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from spos_quant.backbones.build import build, load_space
from spos_quant.cost.budget import parse_budget
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable


def test_costs_of_a_million_architectures(seconds: Callable[..., None], tiny: bool) -> None:
    space = load_space("torchvision:resnet50")
    table = CostTable(space)
    sizes = [len(axis.candidates) for axis in space.axes]
    drawn = np.random.default_rng(0).integers(0, sizes, (100 if tiny else 1_000_000, len(sizes)))
    seconds(lambda: table.totals(drawn), 1.0)


def test_10_000_feasible_architectures(seconds: Callable[..., None], tiny: bool) -> None:
    table = CostTable(load_space("resnet34-mixed"))
    budget = parse_budget("w2a2", "bitops", table)
    random = np.array(table.space.sample_many(np.random.default_rng(0), 10_000))
    assert (table.totals(random, "bitops") <= budget.limit).mean() < 0.01
    sampler = FeasibleSampler(table, [budget])
    seconds(lambda: sampler.sample(np.random.default_rng(0), 100 if tiny else 10_000), 0.2)


def test_activate_a_hundred_paths(seconds: Callable[..., None]) -> None:
    supernet = build(load_space("digits-mixed"))
    paths = supernet.space.sample_many(np.random.default_rng(0), 100)
    seconds(lambda: [supernet.activate(path) for path in paths])


@pytest.mark.parametrize("words", ["--help", "spaces", "cost resnet18-mixed", "cost resnet18-mixed --uniform w4a4"])
def test_command(seconds: Callable[..., None], words: str) -> None:
    command = [sys.executable, "-m", "spos_quant", *words.split()]
    seconds(lambda: subprocess.run(command, check=True, capture_output=True), 0.5)


def test_start_of_python(seconds: Callable[..., None]) -> None:
    seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
