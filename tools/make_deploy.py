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
them (`retrain.fold`); a file that would answer too many images otherwise is refused, and listed below the table.

"""

Row = dict[str, Any]


def main() -> None:
    """Writes the page."""
    PATH.write_text(text(), "utf-8")


def text() -> str:
    """The page of the figures at hand."""
    found = json.loads(RESULT.read_text("utf-8"))
    where = found["environment"]
    columns = ("network", "format", "bytes", "packed weights", "test top-1", "of the model", "agreement", "difference")
    rows = table(columns, (cells(row) for row in found["rows"] if row["file"]))
    refusals = [f"- {row['family']}, `{row['format']}`: {row['refused']}" for row in found["rows"] if row["refused"]]
    parts = [
        f"Networks at uniform {found['bits']}, trained for {found['steps']} steps of {found['batch_size']} images on scikit-learn's "
        "digits, enlarged: enough to hold answers against, whatever they are worth.\n",
        rows,
        *(["Refused:\n", *refusals, ""] if refusals else []),
        "`python benchmarks/deploy.py --work DIR`\n",
        f"Measured on {where['cpus']} CPU cores with torch {where['packages']['torch']}, onnxruntime "
        f"{where['packages']['onnxruntime']}, at commit {where['commit']}; `benchmarks/results/deploy.json`.\n",
    ]
    return HEAD + "\n".join(parts)


def cells(row: Row) -> list[str]:
    """A file as cells of the table."""
    file = row["file"]
    return [
        row["family"],
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
