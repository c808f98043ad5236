"""Time of costs, samples and path switches by number of blocks; it should be linear.

    python benchmarks/blocks.py       # a minute or two
    python benchmarks/blocks.py --tiny

For CIFAR ResNets of 9 to 108 blocks with the axes of `resnet20-mixed`: 100,000 architectures are costed, 1,000 are
sampled within the BitOps of w2a2, a sampler is built for that budget, and a supernet activates 100 paths. Medians of
five, plotted in docs/blocks.svg relative to the time at the fewest blocks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from torch import nn

from spos_quant.backbones.build import build, load_spec, space_of
from spos_quant.backbones.registry import backbones
from spos_quant.backbones.resnet import ResNet
from spos_quant.cost.budget import parse_budget
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable
from spos_quant.space.search_space import SearchSpace
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.network import BlockBuilder

PER_STAGE = (3, 6, 9, 18, 36)
"""Numbers of blocks in each of the three stages."""
PLOT = Path(__file__).parent.parent / "docs" / "blocks.svg"
ROUNDS = 5


def space_of_blocks(per_stage: int) -> SearchSpace:
    """A space with three stages of `per_stage` blocks each."""
    name = f"resnet-of-{3 * per_stage}-blocks"

    def make(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
        depths, stem = (per_stage,) * 3, (16, 3, 1, False)
        return ResNet(spec, builder, depths=depths, channels=(16, 32, 64), stem=stem, projection=False, head="linear")

    backbones.register(name)(make)
    return space_of(load_spec("resnet20-mixed").model_copy(update={"name": name, "backbone": name}))


def measured(per_stage: int, tiny: bool) -> dict[str, float]:
    """Median seconds of each operation, by name."""
    space = space_of_blocks(per_stage)
    table, rng = CostTable(space), np.random.default_rng(0)
    budget = parse_budget("w2a2", "bitops", table)
    sampler = FeasibleSampler(table, [budget])
    drawn = np.array(space.sample_many(rng, 100 if tiny else 100_000))
    supernet = build(space)
    paths = space.sample_many(rng, 100)
    return {
        "100,000 costs": median(lambda: table.totals(drawn)),
        "1,000 samples": median(lambda: sampler.sample(np.random.default_rng(0), 10 if tiny else 1_000)),
        "set up a sampler": median(lambda: FeasibleSampler(table, [budget])),
        "100 paths": median(lambda: [supernet.activate(path) for path in paths]),
    }


def median(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def exponent(blocks: list[int], seconds: list[float]) -> float:
    """The exponent of the growth of time with the number of blocks: the slope in log-log coordinates."""
    return float(np.polyfit(np.log(blocks), np.log(seconds), 1)[0])


def svg(blocks: list[int], rows: list[dict[str, float]]) -> str:
    """An SVG of the times relative to the first, with a line for linear growth."""
    x0, y0, width, height = 50, 20, 420, 260
    most = max(max(row[name] / rows[0][name] for name in row) for row in rows)
    most = max(most, blocks[-1] / blocks[0]) * 1.05

    def line(values: list[float], style: str) -> str:
        points = " ".join(
            f"{x0 + block / blocks[-1] * width:.1f},{y0 + height - value / most * height:.1f}"
            for block, value in zip(blocks, values, strict=True)
        )
        return f'<polyline points="{points}" fill="none" {style}/>'

    parts = [f'<path d="M{x0} {y0}V{y0 + height}H{x0 + width}" fill="none" stroke="#888"/>']
    parts.append(line([block / blocks[0] for block in blocks], 'stroke="#999" stroke-dasharray="4 4"'))
    colours = ("#2a6fbb", "#c4572e", "#3a8f4d", "#8a4fa3")
    for i, (name, colour) in enumerate(zip(rows[0], colours, strict=True)):
        parts.append(line([row[name] / rows[0][name] for row in rows], f'stroke="{colour}" stroke-width="1.5"'))
        parts.append(f'<text x="{x0 + width + 20}" y="{y0 + 20 + 20 * i}" fill="{colour}">{name}</text>')
    parts.append(f'<text x="{x0 + width + 20}" y="{y0 + 100}">dashed: linear</text>')
    for block in blocks:
        x = x0 + block / blocks[-1] * width
        parts.append(f'<text x="{x:.0f}" y="{y0 + height + 16}" text-anchor="middle">{block}</text>')
    parts.append(f'<text x="{x0 + width}" y="{y0 + height + 32}" text-anchor="end">blocks</text>')
    parts.append(f'<text x="{x0 - 6}" y="{y0 + 8}" text-anchor="end">{most:.0f} x</text>')
    style = 'font-family="sans-serif" font-size="12" fill="#666"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 330" {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="smoke test; nothing is written")
    given = parser.parse_args()
    per_stage = PER_STAGE[:2] if given.tiny else PER_STAGE
    blocks, rows = [3 * n for n in per_stage], []
    for n in per_stage:
        rows.append(measured(n, given.tiny))
        print(
            f"{3 * n:4} blocks  " + "  ".join(f"{name} {value:.4f} s" for name, value in rows[-1].items()), flush=True
        )
    powers = {name: exponent(blocks, [row[name] for row in rows]) for name in rows[0]}
    print("time grows with blocks to the power of " + ", ".join(f"{p:.2f} ({name})" for name, p in powers.items()))
    if not given.tiny:
        PLOT.write_text(svg(blocks, rows))
        write_result("blocks", {"blocks": blocks, "rows": rows, "powers": powers, "load": os.getloadavg()[0]})


if __name__ == "__main__":
    main()
