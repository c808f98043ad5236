#!/usr/bin/env python3
"""Writes docs/deploy.md from benchmarks/results/deploy.json: files of every format, one network per family.

python tools/make_deploy.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from make_results import table

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "deploy.md"
RESULT = ROOT / "benchmarks" / "results" / "deploy.json"
HEAD = """# Deploy: which file for what

| you have | take | because |
| --- | --- | --- |
| a processor with 8-bit instructions (VNNI), speed counts | `onnx-int8` | all convolutions run as 8-bit kernels; few bits save no time there, and without such instructions a float file may be faster (`benchmarks/README.md`) |
| a processor with onnxruntime, bytes count | `onnx-packed` | weights lie in the bits that they have |
| any ONNX runtime, or a compiler that reads QDQ | `onnx-qcdq` | standard operators, the trained model's answers |
| an FPGA flow that reads QONNX (FINN, hls4ml) | `qonnx` | the quantizers are operators of their own |
| C, an FPGA, NumPy | `integers` | integer weights, biases and scales, with a graph and an interpreter to read |

How each is made and what it holds is in [Export](export.md). Every file below was asked about the test split by what is in the
file alone; *agreement* is the share of images that get the label of the trained model, *difference* the largest of a logit.
`onnx-int8` and `integers` fold BatchNorm and round residual sums, so they answer a little differently unless the training ends in
them (`retrain.fold`); a file that would answer too many images otherwise is refused, and listed below the table. Networks whose
files of integers were refused went on training in the integers: rows *with fold*, held against the integers that this training made.

"""

Row = dict[str, Any]
WHEN = ("before", "after")


def main() -> None:
    """Writes the page."""
    PATH.write_text(text(), "utf-8")


def text() -> str:
    """The page of the figures at hand."""
    found = json.loads(RESULT.read_text("utf-8"))
    where = found["environment"]
    columns = ("network", "format", "bytes", "packed weights", "test top-1", "of the model", "agreement", "difference")
    rows = table(columns, (cells(row) for row in found["rows"] if row["file"]))
    refusals = [f"- {network(row)}, `{row['format']}`: {row['refused']}" for row in found["rows"] if row["refused"]]
    parts = [
        f"Networks at uniform {found['bits']}, trained for {found['steps']} steps of {found['batch_size']} images on scikit-learn's "
        "digits, enlarged: enough to hold answers against, whatever they are worth."
        f"{found.get('notes', '')}\n",
        rows,
        *(["Refused:\n", *refusals, ""] if refusals else []),
        *folding(found["rows"]),
        "`python benchmarks/deploy.py --work DIR`\n",
        f"Measured on {where['cpus']} CPU cores with torch {where['packages']['torch']}, onnxruntime "
        f"{where['packages']['onnxruntime']}, at commit {where['commit']}; `benchmarks/results/deploy.json`.\n",
    ]
    return HEAD + "\n".join(parts)


def network(row: Row) -> str:
    """Which network, and how its training ended."""
    return f"{row['family']} with fold" if "fold" in row else row["family"]


def folding(rows: list[Row]) -> list[str]:
    """What folding cost, and what the training in integers won back."""
    folds = {row["family"]: row["fold"] for row in rows if "fold" in row}
    if not folds:
        return []
    columns = ("network", "steps in integers", "agreement before", "after", "search-val top-1 before", "after")
    cells = (
        [family, f"{fold['steps']:,}", *(f"{fold[when][what]:.2%}" for what in ("agreement", "top1") for when in WHEN)]
        for family, fold in folds.items()
    )
    return ["What training in integers does, against the retrained model on search-val:\n", table(columns, cells)]


def cells(row: Row) -> list[str]:
    """A file as cells of the table."""
    file = row["file"]
    return [
        network(row),
        f"`{row['format']}`",
        f"{file['bytes']:,}",
        f"{row['weight_bytes']:,}",
        f"{file['top1']:.2%}",
        f"{row['top1_of_model']:.2%}",
        f"{file['agreement']:.2%}",
        f"{file['max_abs_diff']:.2g}",
    ]


if __name__ == "__main__":
    main()
