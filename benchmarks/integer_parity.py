"""The onnx-int8 and integer files against the NumPy reference, on all test images of a trained run.

    python benchmarks/integer_parity.py RUN [RUN ...]

Per retrained quantized result of each run: the number of images with another label than the reference, the largest
difference of a logit, and the largest logit. Ten thousand images of CIFAR-10 take about four minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import write_result

from spos_quant.export.integer import reference
from spos_quant.export.integer.file import IntegerModel, write_integers
from spos_quant.export.integer.onnx_writer import write_onnx_int8
from spos_quant.export.runtime import OnnxModel, compare
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages.fold import graph_of
from spos_quant.stages.load import load_model
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.run import Result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--results", metavar="KEYS", help="only these results, comma-separated [all]")
    parser.add_argument("--tiny", action="store_true", help="nothing is written as a result")
    given = parser.parse_args()
    keys = given.results and given.results.split(",")
    found: list[dict[str, Any]] = []
    for name in given.runs:
        for result in open_existing(name).results():
            wanted = keys is None or result.key in keys
            if wanted and result.model_path.exists() and not read_bit_config(result.bits_path).is_float:
                found += rows(result)
    if not given.tiny:
        write_result("integer_parity", {"rows": found})


def rows(result: Result) -> list[dict[str, Any]]:
    """One row per file of a result."""
    graph = graph_of(result, load_model(result))
    batches = [x.numpy() for x, _ in scoring_batches(result.run, "test", all_images=True)]
    wanted = [reference.run(graph, x) for x in batches]
    largest = max(float(np.abs(logits).max()) for logits in wanted)
    found = []
    with TemporaryDirectory() as folder:
        onnx, integers = Path(folder) / "m.onnx", Path(folder) / "m.safetensors"
        write_onnx_int8(graph, onnx, {})
        write_integers(graph, integers, {})
        files: dict[str, Callable[[Any], Any]] = {"onnx-int8": OnnxModel(onnx), "integers": IntegerModel(integers)}
        for form, predict in files.items():
            parity = compare((ours, predict(x)) for ours, x in zip(wanted, batches, strict=True))
            others = round((1 - parity.agreement) * parity.n)
            row = {"run": result.run.spec.name, "result": result.key, "format": form, "images": parity.n}
            found.append({**row, "other_labels": others, "max_abs_diff": parity.max_abs_diff, "largest_logit": largest})
            print(
                f"{row['run']:16} {row['result']:20} {form:10} {parity.n:7,} images, {others} other labels, "
                f"logits up to {largest:.1f} differ by {parity.max_abs_diff:.1e} at most",
                flush=True,
            )
    return found


if __name__ == "__main__":
    main()
