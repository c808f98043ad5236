"""`sq.sensitivity` with a user function, and the search by gradient sensitivities."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spos_quant as sq
from spos_quant.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


def quantized(norm: bool = False):
    layers = [nn.Conv2d(1, 4, 3), *([nn.BatchNorm2d(4)] if norm else []), nn.Flatten(), nn.Linear(64, 3)]
    return sq.quantize(
        nn.Sequential(*layers).eval(), torch.randn(4, 1, 6, 6), bits=[(2, 8), (4, 8), (8, 8)], keep_float=[]
    )


def test_measured_by_a_function():
    supernet = quantized()

    def f(module):
        return -sum(8 - module.space.axes[i].candidates[k][0] for i, k in enumerate(module.architecture))

    found = sq.sensitivity(supernet, evaluate=f)
    degradation = {(r.perturbation.axis, r.perturbation.candidate): r.degradation for r in found.rows}
    assert degradation == {(0, 0): 6, (0, 1): 4, (1, 0): 6, (1, 1): 4}
    (best,) = found.optima(supernet.table, weight_bytes_budget="w4a8")
    assert supernet.cost(best)["weight_bytes"] <= supernet.cost((1, 1))["weight_bytes"]
    result = sq.search(supernet, evaluate=f, searcher="knapsack", weight_bytes_budget="w4a8")
    assert result.best == best
    assert all(cost <= supernet.cost((1, 1))["weight_bytes"] for _, cost, _ in result.front)


def test_batch_norm_requires_recalibration_and_search_supports_gradients():
    supernet = quantized(norm=True)
    with pytest.raises(ConfigError, match="give recalibrate="):
        sq.sensitivity(supernet, evaluate=lambda module: 0.0)
    images = [torch.randn(8, 1, 6, 6)]
    config = sq.SearchConfig(estimate="gradient", solutions=2)
    result = sq.search(
        supernet, evaluate=lambda _: 0.0, recalibrate=images, searcher="knapsack", config=config, bitops_budget="60%"
    )
    assert len(result.evaluations) == 2
    with pytest.raises(ConfigError, match="takes its images from recalibrate"):
        sq.search(supernet, evaluate=lambda _: 0.0, recalibrate=None, searcher="knapsack", config=config)
