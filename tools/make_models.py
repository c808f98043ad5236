#!/usr/bin/env python3
"""Writes docs/models.md: networks through `sq.quantize`, with what was seen in each. Some minutes; needs timm.

python tools/make_models.py
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "convert"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from common import write_result  # noqa: E402
from zoo_cases import NAMES, Found, examine  # noqa: E402

TEXT = """# Models that sq.quantize was tried on

{count} networks with fresh weights and BatchNorm statistics of 32 structured pictures (64 x 64; ViT, Swin and DeiT 224 x 224).
W8A8 quantizes every layer, the first and the last too; *agreement* is the share of pictures with the float model's label,
*error* that of the logits relative to how they vary over the pictures. *Left float* are layers whose forward never runs (attention
that hands its weights to a function) or is not torch's own; their multiply-adds are counted as float.

In every one of them: the float path equals the model to the last bit, a random subnet equals its path to the last bit,
multiply-adds are those of torch's counter, BitOps read from the subnet are those of the table, and the supernet survives a copy,
saving and loading, and four threads. `python tools/make_models.py` writes this page, `pytest -m slow tests/convert` asserts it.

| model | layers | left float | MACs | outside of layers | agreement | error | QCDQ file |
|---|---|---|---|---|---|---|---|
{rows}

Measured with torch {torch}; all figures in `benchmarks/results/models.json`.
"""


def main() -> int:
    """Examines every network; returns 1 where something does not hold."""
    torch.set_num_threads(1)
    found: list[Found] = []
    for name in NAMES:
        found.append(examine(name))
        print(json.dumps(asdict(found[-1])), flush=True)
    rows = "\n".join(
        f"| {f.name} | {f.layers} | {f.left_float} | {f.macs:,} | {f.float_macs_outside:,} | {f.agreement:.0%} "
        f"| {f.relative_error:.2%} | {f.onnx} |"
        for f in found
    )
    text = TEXT.format(count=len(found), rows=rows, torch=torch.__version__)
    (ROOT / "docs" / "models.md").write_text(text, "utf-8")
    write_result("models", {"rows": [asdict(f) for f in found]})
    return int(not all(f.float_equal and f.subnet_equal and f.macs_equal and f.survives for f in found))


if __name__ == "__main__":
    sys.exit(main())
