#!/usr/bin/env python3
"""Writes docs/models.md: networks through `sq.quantize`, with what was seen in each. Hours on two busy cores; needs timm.

python tools/make_models.py                                  # all of them
python tools/make_models.py "MLP" torchvision:resnet18       # these anew, the others as they were measured before
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

{count} networks, each trained from fresh weights to tell ten kinds of structured pictures of 64 x 64 apart (at most 240 steps of
32; no published weights), with BatchNorm statistics of such pictures, and then quantized without further training.
*Left float* are layers whose forward never runs (attention that hands its weights to a function) or is not torch's own; their
multiply-adds (*outside*) are counted as float.

In every one of them the float path equals the model to the last bit, a random subnet equals its path to the last bit,
multiply-adds are those of torch's counter, BitOps read from the subnet are those of the table, and the supernet survives a copy,
saving and loading, and four threads: {holding} of {count}.

*Error* and *agreement* are those of W8A8 in every layer, the first and the last too, against the float model on 64 pictures
that it was not trained on: logits relative to how they vary over the pictures, and the share of equal labels.{notes}

| model | layers | left float | MACs | outside | error | agreement | QCDQ file |
|---|---|---|---|---|---|---|---|
{rows}

*no* names the error that the export ended with; *labels differ* would be a file that the parity check refused. Measured with torch {torch};
`python tools/make_models.py` measures (hours on two busy cores; needs timm) and writes `benchmarks/results/models.json` and this page,
`pytest -m slow tests/convert` asserts what must hold, and that 90 % of the labels agree.
"""


def main() -> int:
    """Examines networks and writes after each; returns 1 where something does not hold."""
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
    """The `rows` that were measured so far, and the `notes` on them that a person wrote into the file."""
    if not (RESULTS / "models.json").exists():
        return {"notes": "", "rows": []}
    found = json.loads((RESULTS / "models.json").read_text("utf-8"))
    return {key: found[key] for key in ("notes", "rows")}


def holds(row: dict[str, Any]) -> bool:
    """Whether all that must be equal is."""
    return all(row[key] for key in ("float_equal", "subnet_equal", "macs_equal", "survives"))


def page(result: dict[str, Any]) -> str:
    """The page of these figures."""
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
