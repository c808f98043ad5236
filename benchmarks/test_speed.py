"""Speed of the parts that run per step, per candidate and per architecture, with pytest-benchmark.

    pytest benchmarks --benchmark-only -p no:cacheprovider

Ratios between rows of one group are what to quote: the groups interleave nothing else, but machines are shared.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spos_quant.backbones.build import build, load_space
from spos_quant.cost.budget import parse_budget
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable


@pytest.fixture(scope="module")
def resnet34():
    return CostTable(load_space("resnet34-mixed"))


def test_costs_of_100_000_architectures(benchmark, resnet34):
    rows = np.array(resnet34.space.sample_many(np.random.default_rng(0), 100_000))
    assert len(benchmark(resnet34.totals, rows)) == 100_000


def test_1_000_feasible_architectures(benchmark, resnet34):
    sampler = FeasibleSampler(resnet34, [parse_budget("w2a2", "bitops", resnet34)])
    assert len(benchmark(sampler.sample, np.random.default_rng(0), 1_000)) == 1_000


@pytest.fixture(scope="module")
def digits():
    return build(load_space("digits-mixed"))


@pytest.mark.benchmark(group="training step, ResNet-20, batch 32")
@pytest.mark.parametrize("kind", ["float", "w4a4 path", "w4a4 subnet"])
def test_step(benchmark, kind):
    supernet = build(load_space("resnet20-mixed"))
    architecture = supernet.space.uniform(4, 4)
    supernet.activate(architecture)
    model = supernet
    if kind == "float":
        supernet.activate_float()
    elif kind == "w4a4 subnet":
        model = supernet.subnet(architecture)
    x, y = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))

    def step():
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()

    benchmark.pedantic(step, rounds=5, warmup_rounds=2)


def test_activate(benchmark, digits):
    paths = digits.space.sample_many(np.random.default_rng(0), 100)
    benchmark(lambda: [digits.activate(path) for path in paths])
