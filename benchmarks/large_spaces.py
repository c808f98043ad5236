"""Time to load the largest spaces, count, sample within a budget, and complete a partial architecture.

Claim: for spaces of more than 10^30 architectures, `cost`, exact feasible sampling and completion take less than a
second each, and so do the costs of a million architectures of a per-layer ResNet-50.

    python benchmarks/large_spaces.py            # a minute; no torch
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from common import write_result

from spos_quant.backbones.build import load_space
from spos_quant.cost.budget import cost_range, parse_budget
from spos_quant.cost.rows import architecture_rows
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable

SPACES = ("resnet20-joint", "shufflenetv2-joint", "shufflenetv2-blocks-mixed")
ROUNDS = 5


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `work`, and its median time in seconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        made = work()
        times.append(time.perf_counter() - start)
    return made, round(median(times), 3)


def million() -> dict[str, Any]:
    """The time to cost a million architectures of ResNet-50 with bits per layer."""
    space = load_space("torchvision:resnet50")
    table = CostTable(space)
    sizes = [len(axis.candidates) for axis in space.axes]
    drawn = np.random.default_rng(0).integers(0, sizes, (1_000_000, len(sizes)))
    table.totals(drawn[:10])
    costs, seconds = timed(lambda: table.totals(drawn))
    assert int(costs[-1]) == sum(
        row.shape.macs * (row.weight_bits or 0) * (row.act_bits or 0)
        for row in architecture_rows(space, tuple(drawn[-1].tolist()))
        if row.counted
    )
    print(f"1,000,000 architectures of torchvision:resnet50, {len(sizes)} axes: {seconds} s")
    return {"space": space.name, "axes": len(sizes), "architectures": 1_000_000, "seconds": seconds}


def main() -> None:
    rows = []
    for name in SPACES:

        def cost(name: str = name) -> tuple[Any, CostTable]:
            space = load_space(name)
            table = CostTable(space)
            assert space.size > 10**30
            cost_range(table, "bitops")
            return space, table

        (space, table), cost_seconds = timed(cost)
        for share in ("20%", "50%"):
            budget = parse_budget(share, "bitops", table)
            sampler, build_seconds = timed(lambda: FeasibleSampler(table, [budget]))  # noqa: B023 - run at once
            found, draw_seconds = timed(lambda: sampler.sample(np.random.default_rng(0), 50))  # noqa: B023
            assert all(table.total(a) <= budget.limit for a in found)
            allowed = {i: {found[0][i], found[1][i]} for i in range(len(space.axes))}
            allowed = {axis: sorted(values) for axis, values in allowed.items()}
            _, child_seconds = timed(lambda: sampler.complete(allowed, np.random.default_rng(0)))  # noqa: B023
            row = {
                "space": name,
                "architectures": f"{space.size:.3g}",
                "budget": share,
                "cost_seconds": cost_seconds,
                "count_seconds": build_seconds,
                "draw_50_seconds": draw_seconds,
                "complete_seconds": child_seconds,
            }
            rows.append(row)
            print(*(f"{value:>26}" if key == "space" else f"{value:>9}" for key, value in row.items()))
    write_result("large_spaces", {"rows": rows, "million": million()})


if __name__ == "__main__":
    main()
