from __future__ import annotations

import numpy as np
import pytest
from toy import VARIANTS, enumerate_space, toy_space

from spos_quant.backbones.build import load_space
from spos_quant.cost.budget import cost_range, parse_budget
from spos_quant.cost.feasible import argmax_cost, argmin_cost
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("metric", ["bitops", "weight_bytes", "macs"])
def test_ends_of_the_range_are_those_of_enumeration(name, metric):
    space = toy_space(**VARIANTS[name])
    table = CostTable(space)
    costs = table.totals(sorted(enumerate_space(space)), metric)
    assert cost_range(table, metric) == (costs.min(), costs.max())
    for largest, expected in ((True, costs.max()), (False, costs.min())):
        a = (argmax_cost if largest else argmin_cost)(table, metric)
        assert a == space.canonical(a)
        assert table.total(a, metric) == expected


def test_resnet18_draws_reach_the_uniform_architecture_of_its_budget():
    table = CostTable(load_space("resnet18-mixed"))
    sampler = FeasibleSampler(table, [parse_budget("w2a2", "bitops", table)])
    costs = table.totals(sampler.sample(np.random.default_rng(0), 3000))
    assert costs.max() == sampler.budgets[0].limit == 1056 * 6_422_528  # touches the budget, which is 6.316 Gi
    a = table.space.uniform(2, 2)
    assert sampler.complete({i: [c] for i, c in enumerate(a)}, np.random.default_rng(0)) == a
