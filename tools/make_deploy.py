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

| target | format | reason |
| --- | --- | --- |
| a processor with 8-bit instructions (VNNI), optimized for speed | `onnx-int8` | all convolutions run as 8-bit kernels; fewer bits are not faster there, and without such instructions a float file may be faster (`benchmarks/README.md`) |
| a processor with onnxruntime, optimized for file size | `onnx-packed` | weights are packed at their own bit-width |
| any ONNX runtime, or a compiler that reads QDQ | `onnx-qcdq` | standard operators, the outputs of the trained model |
| an FPGA flow that reads QONNX (FINN, hls4ml) | `qonnx` | quantizers are separate operators |
| C, an FPGA, NumPy | `integers` | integer weights, biases and scales, with a graph and a readable interpreter |

[Export](export.md) describes the formats. Every file below was run on the test split from its own contents alone. *Agreement* is the
share of images with the label of the trained model; *difference* is the largest difference of a logit. `onnx-int8` and `integers` fold
BatchNorm and round residual sums, so their outputs differ slightly unless the training ends in integers (`retrain.fold`). The export
refuses a file if too many labels differ; refused files are listed below the table. If integer files of a network were refused, its
training continued in integers: the rows *with fold* compare these files with the network that this training gave.

"""

Row = dict[str, Any]
WHEN = ("before", "after")


def main() -> None:
    """Writes the page."""
    PATH.write_text(text(), "utf-8")


def text() -> str:
    """The text of the page."""
    found = json.loads(RESULT.read_text("utf-8"))
    where = found["environment"]
    columns = ("network", "format", "bytes", "packed weights", "test top-1", "of the model", "agreement", "difference")
    rows = table(columns, (cells(row) for row in found["rows"] if row["file"]))
    refusals = [f"- {network(row)}, `{row['format']}`: {row['refused']}" for row in found["rows"] if row["refused"]]
    parts = [
        f"Networks at uniform {found['bits']}, trained for {found['steps']} steps of {found['batch_size']} images on scikit-learn's "
        "digits, enlarged: enough to compare outputs, whatever the accuracy."
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
    """The name of the network, with a mark if its training ended in integers (fold)."""
    return f"{row['family']} with fold" if "fold" in row else row["family"]


def folding(rows: list[Row]) -> list[str]:
    """The table of agreement and accuracy before and after training in integers."""
    folds = {row["family"]: row["fold"] for row in rows if "fold" in row}
    if not folds:
        return []
    columns = ("network", "steps in integers", "agreement before", "after", "search-val top-1 before", "after")
    cells = (
        [family, f"{fold['steps']:,}", *(f"{fold[when][what]:.2%}" for what in ("agreement", "top1") for when in WHEN)]
        for family, fold in folds.items()
    )
    return ["Effect of the training in integers, against the retrained model on search-val:\n", table(columns, cells)]


def cells(row: Row) -> list[str]:
    """The table cells of a file."""
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
