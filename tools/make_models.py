#!/usr/bin/env python3
"""Writes docs/models.md: checks of `sq.quantize` on many networks. Takes hours on two busy cores; needs timm.

python tools/make_models.py                                  # all networks
python tools/make_models.py "MLP" torchvision:resnet18       # only these; keeps the figures of the others
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "convert"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from common import RESULTS, write_result  # noqa: E402
from zoo_cases import NAMES, examine  # noqa: E402

TEXT = """# Models that sq.quantize was tried on

{count} networks were each trained from fresh weights to classify ten kinds of structured images of 64 x 64 (at most 240 steps of
32 images; no published weights), with BatchNorm statistics of such images, and then quantized without further training.

| model | layers | left float | MACs | outside | error | agreement | QCDQ file |
|---|---|---|---|---|---|---|---|
{rows}

- *left float*: layers whose forward never runs (attention that passes its weights to a function) or is not torch's own.
- *outside*: the multiply-adds of these layers, which count as float.
- *error*: the error of the logits, relative to their variation over the images. *agreement*: the share of equal labels. Both
  compare W8A8 in all layers, including the first and the last, with the float model on 64 images that it was not trained on.{notes}
- *QCDQ file*: *no* is followed by the error of the export; *labels differ* marks a file that the parity check refused.

For {holding} of {count} networks all checks hold: the float path equals the model bit for bit, a random subnet equals its path bit
for bit, multiply-adds equal those of torch's counter, BitOps read from the subnet equal those of the cost table, and the supernet
works after a copy, after saving and loading, and in four threads.

Measured with torch {torch}. `python tools/make_models.py` measures (hours on two busy cores; needs timm) and writes
`benchmarks/results/models.json` and this page. `pytest -m slow tests/convert` asserts the checks above, and that at least 90 % of the
labels agree.
"""


def main() -> int:
    """Examines networks and writes the page after each; returns 1 if a check fails."""
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or NAMES
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        sys.exit(f"unknown network {unknown[0]!r}; known: {', '.join(NAMES)}")
    for name in wanted:
        found = asdict(examine(name))
        print(json.dumps(found), flush=True)
        known = before()
        rows = {row["name"]: row for row in known["rows"]} | {name: found}
        result = write_result("models", {**known, "rows": [rows[n] for n in NAMES if n in rows]})
        (ROOT / "docs" / "models.md").write_text(page(json.loads(result.read_text("utf-8"))), "utf-8")
    return int(not all(map(holds, before()["rows"])))


def before() -> dict[str, Any]:
    """The stored `rows`, and the hand-written `notes` on them."""
    if not (RESULTS / "models.json").exists():
        return {"notes": "", "rows": []}
    found = json.loads((RESULTS / "models.json").read_text("utf-8"))
    return {key: found[key] for key in ("notes", "rows")}


def holds(row: dict[str, Any]) -> bool:
    """Whether all checks of equality hold."""
    return all(row[key] for key in ("float_equal", "subnet_equal", "macs_equal", "survives"))


def page(result: dict[str, Any]) -> str:
    """The text of the page."""
    rows = "\n".join(
        f"| {r['name']} | {r['layers']} | {r['left_float']} | {r['macs']:,} | {r['float_macs_outside']:,} "
        f"| {r['relative_error']:.1%} | {r['agreement']:.0%} | {r['onnx']} |"
        for r in result["rows"]
    )
    count, holding = len(result["rows"]), sum(map(holds, result["rows"]))
    package = result["environment"]["packages"]["torch"]
    return TEXT.format(count=count, holding=holding, rows=rows, torch=package, notes=result["notes"])


if __name__ == "__main__":
    sys.exit(main())
