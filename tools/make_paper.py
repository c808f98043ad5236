#!/usr/bin/env python3
"""Writes docs/paper.md: the paper's numbers that follow from architectures and settings, compared with ours.

python tools/make_paper.py            # writes; seconds, no torch
python tools/make_paper.py --check    # exits 1 if the file is stale
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from spos_quant.backbones.build import load_space, load_spec
from spos_quant.stages.cost import architecture_cost

PATH = Path(__file__).resolve().parent.parent / "docs" / "paper.md"
ARCHITECTURE = "(2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3)"
CELL = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
IMAGENET = 1_281_167
"""Training images of ImageNet-1k."""


@dataclass(frozen=True)
class Number:
    """A published number and ours; both are printed in multiples of `unit` with `digits` decimals."""

    what: str
    published: float
    ours: float
    unit: float = 1
    digits: int = 0

    def line(self) -> str:
        """A table row; the difference is between the printed numbers."""
        ours = round(self.ours / self.unit, self.digits)
        difference = ours - self.published
        shown = "0" if not difference else f"{difference:+,.{self.digits}f} ({difference / self.published:+.1%})"
        return f"| {self.what} | {self._text(self.published)} | {self._text(ours)} | {shown} |"

    def _text(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


def blocks() -> list[Number]:
    """Sections 4.1 and 4.2: operators and channels."""
    space = load_space("shufflenetv2-blocks")
    paper = architecture_cost(space, arch=ARCHITECTURE)
    return [
        Number("architectures of the block search, 4^20", 4**20, space.size),
        Number("architectures of the channel search, 10^20", 10**20, load_space("shufflenetv2-channels").size),
        Number(f"MACs of `{ARCHITECTURE}`, listed, millions", 323, paper["macs"], 1e6),
        Number("the same, counted in the authors' network", 322_918_720, paper["macs"]),
        Number("its parameters, listed, millions", 3.5, paper["params"], 1e6, 1),
        Number("the same, counted", 3_529_312, paper["params"]),
        Number("MACs of all shuffle 3x3, counted", 295_842_496, architecture_cost(space, arch="0," * 20)["macs"]),
        Number("MACs of all Xception, counted", 358_825_920, architecture_cost(space, arch="3," * 20)["macs"]),
    ]


def mixed() -> list[Number]:
    """Section 4.3: bits. The paper's G is 2^30."""
    published = {"resnet18": (8, (6.32, 14.21, 25.27)), "resnet34": (16, (13.21, 29.72, 52.83))}
    found = []
    for name, (n, bitops) in published.items():
        space = load_space(f"{name}-mixed")
        found.append(Number(f"architectures of `{space.name}`, (3 x 6)^{n}", 18**n, space.size))
        for bits, theirs in zip((2, 3, 4), bitops, strict=True):
            ours = architecture_cost(space, uniform=f"w{bits}a{bits}")["bitops"]
            found.append(Number(f"BitOps of {name} at {bits}W{bits}A, Gi", theirs, ours, 2**30, 2))
    return found


def recipe() -> list[Number]:
    """Settings of training and search."""
    spec = load_spec("shufflenetv2-blocks")
    train, retrain, search = spec.train, spec.retrain, spec.search
    assert train.iterations is not None
    assert retrain.iterations is not None
    return [
        Number("iterations of the supernet", 150_000, train.iterations),
        Number("its epochs", 120, train.iterations * train.batch_size / IMAGENET),
        Number("iterations of the retraining", 300_000, retrain.iterations),
        Number("its epochs", 240, retrain.iterations * retrain.batch_size / IMAGENET),
        Number("architectures of a search, 50 x 20", 1_000, search.population * search.generations),
        Number("images of a recalibration, 200 x 128", 25_600, search.recalibration_images),
        Number("images that score a candidate, 40 x 200", 8_000, search.max_images or 0),
    ]


def others() -> list[Number]:
    """NAS-Bench-201 and HAWQ-V3."""
    cells = load_space("nasbench201")
    found = [
        Number("architectures of NAS-Bench-201, 5^6", 15_625, cells.size),
        Number(
            f"MACs of `{CELL}`, millions".replace("|", "\\|"),
            15.647,
            architecture_cost(cells, arch=CELL)["macs"],
            1e6,
            3,
        ),
        Number(
            "MACs of all 3x3, its most expensive, millions",
            220.120,
            architecture_cost(cells, arch="3," * 6)["macs"],
            1e6,
            3,
        ),
    ]
    for name, published in {"resnet18": (116, 34), "resnet50": (247, 67)}.items():
        layers = load_space(f"{name}-mixed").network_shapes.reference
        macs = {layer.name: layer.shapes[0].macs for layer in layers}
        if name == "resnet50":
            # In HAWQ-V3's network the first 1x1 of a block has the stride, so it computes a quarter of the pixels.
            macs |= {f"layer{i}.0.conv1": macs[f"layer{i}.0.conv1"] // 4 for i in (2, 3, 4)}
        first, *inner, last = macs.values()
        found.append(Number(f"BOPs of {name} at W8A8, HAWQ-V3, G", published[0], 64 * sum(macs.values()), 1e9, 1))
        low = 64 * (first + last) + 16 * sum(inner)
        found.append(Number("the same at W4A4, first and last layer at 8 bits, HAWQ-V3, G", published[1], low, 1e9, 1))
    return found


TEXT = """# The paper's numbers, and ours

[Single Path One-Shot NAS](https://arxiv.org/abs/1904.00420) (Guo et al., ECCV 2020). `python tools/make_paper.py` writes this
page from the search spaces, without trained models. "Counted" are the multiply-adds of convolutions and linear layers in the
network that the authors published.

## Building blocks and channels

{blocks}

```console
spos-quant cost shufflenetv2-blocks --arch "{architecture}"
```

## Mixed precision

{mixed}

Only the residual blocks count, including their 1x1 shortcuts; the first convolution and the classifier stay float.

## Recipe

{recipe}

This is the recipe of `shufflenetv2-blocks`. `resnet18-mixed` and `resnet34-mixed` use our own: 120 epochs each, cosine schedule,
candidates scored on all of search-val.

## Numbers from other papers

{others}

HAWQ-V3 prints no decimals. Its ResNet-50 has the stride in the first 1x1 of a block (3.86G multiply-adds), which is counted
here. The ResNet-50 of our spaces has it in the 3x3, as torchvision's does (4.09G).

## Differences between the paper, the authors' code and this project

| what | paper | authors' code | this project, and how to get the other |
|---|---|---|---|
| path sampling | uniform | one of seven bins of 10M MACs, then a network in it, by up to 500 tries | as in the paper; for the code's, by exact sampling from cost bands: `--set train.path_sampler=cost-uniform --set train.path_low=290M --set train.path_high=359999999 --set train.path_bins=7` |
| first population of a search | random | random | in spaces with bits, the uniform bits within the budget come first (decision 0037); as in the paper: `--set search.first=random` |
| images that score a candidate | held out of the training set | the validation set | a fifth of train, held out; the test split is used once, at the end |
| affine parameters of the supernet's first and last BatchNorm | - | none | present, as in all others; the statistics of a path are recomputed in any case |
| initial weights | - | N(0, 1/fan-in), 0.01 at both ends | He normal |
| input images | 224 x 224 crops | BGR, 0 to 255 | RGB, normalised; the same crops, flips and colour changes (`imagefolder`) |
| position of activation quantization | in the block | (no bits) | at the input of each layer, so that costs add up (decision 0001) |
"""


def table(numbers: list[Number]) -> str:
    """A Markdown table."""
    return "\n".join(["| what | published | ours | difference |", "|---|---|---|---|", *(n.line() for n in numbers)])


def text() -> str:
    """The text of the page."""
    return TEXT.format(
        blocks=table(blocks()),
        mixed=table(mixed()),
        recipe=table(recipe()),
        others=table(others()),
        architecture=ARCHITECTURE,
    )


def main() -> int:
    """Writes or checks; returns the exit status."""
    made = text()
    if "--check" in sys.argv[1:]:
        stale = not PATH.exists() or PATH.read_text("utf-8") != made
        if stale:
            sys.stderr.write(f"{PATH} is stale; run: python tools/make_paper.py\n")
        return int(stale)
    PATH.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
