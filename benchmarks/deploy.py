"""Exports one trained model per network family in every format, and verifies each file from the file alone.

    python benchmarks/deploy.py --work DIR           # about ten minutes; resumable
    python benchmarks/deploy.py --work DIR --tiny    # smoke test

The networks are trained at uniform w4a4 for a few steps on scikit-learn's digits, enlarged to their input size. That is
enough to compare predictions of files and models; the accuracy is not the point. If the integer files are refused, the
retraining continues in integers (`retrain.fold`). `tools/make_deploy.py` writes the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import write_result
from sklearn.datasets import load_digits

import spos_quant as sq
from spos_quant.data import ArraySplit, Augmentation, DataSet, Preprocessing
from spos_quant.data.loading import datasets
from spos_quant.errors import ExportError
from spos_quant.stages.export import export_result, exports
from spos_quant.stages.open_run import Options, plan_run
from spos_quant.stages.retrain import retrain_result
from spos_quant.stages.run import Result
from spos_quant.stages.verify import verify_result

FAMILIES = ("resnet20", "mobilenetv2-cifar", "mobilenetv3-small", "shufflenetv2", "nasbench201", "torchvision:resnet18")
FORMATS = ("onnx-qcdq", "onnx-packed", "onnx-int8", "integers", "qonnx")
INTEGERS = ("onnx-int8", "integers")
FOLD = 0.5
BITS = "w4a4"
SIDE, TIMES = 16, 2


@datasets.register("digits-large")
def enlarged_digits(root: str | None, *, input: Any, classes: int, seed: int) -> DataSet:
    """The digits in three equal channels, enlarged by repeating pixels."""
    del root, input
    raw = load_digits()
    grey = np.kron((raw.images * 255 / 16).astype(np.uint8), np.ones((1, TIMES, TIMES), np.uint8))
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = raw.target.astype(np.int64)
    return DataSet.holding_out(
        name="digits-large",
        classes=tuple(map(str, range(classes))),
        preprocessing=Preprocessing(size=(SIDE, SIDE), channels=3, mean=(0.3,) * 3, std=(0.38,) * 3),
        augmentation=Augmentation(size=(SIDE, SIDE), pad=TIMES),
        train=ArraySplit(images[360:], labels[360:]),
        test=ArraySplit(images[:360], labels[:360]),
        seed=seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run directories")
    parser.add_argument("--steps", type=int, default=600, help="training steps [%(default)s]")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument(
        "--tiny", action="store_true", help="smoke test: one network, a few steps; nothing is written as a result"
    )
    given = parser.parse_args()
    if given.tiny:
        given.steps, given.families = 12, FAMILIES[0]
    rows: list[dict[str, Any]] = []
    for family in given.families.split(","):
        rows += family_rows(given, family)
        if not given.tiny:
            write_result("deploy", {"bits": BITS, "steps": given.steps, "batch_size": 32, "rows": rows})


def family_rows(given: argparse.Namespace, family: str) -> list[dict[str, Any]]:
    """One row per format: the verified file, or the reason that there is none."""
    name = family.replace(":", "-")
    space = {
        "name": name,
        "backbone": family,
        "input": [3, SIDE, SIDE],
        "classes": 10,
        "axes": {"bits": [[4, 4]]},
        "quantizer": "midrise+pact",
        "retrain": {"init": "fresh", "iterations": given.steps, "batch_size": 32, "lr": 0.05, "label_smoothing": 0.0},
    }
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(space), "utf-8")
    out = given.work / name
    (made,) = sq.bench(path, [BITS], out=out, data="digits-large", device="cpu", export=False)["rows"]
    row = {"family": family, "weight_bytes": made["weight_bytes"], "top1_of_model": made["top1_mean"]}
    with plan_run(str(out), Options(assignments=("retrain.fold=0",))).open() as run:
        rows = file_rows(row, run.result(made["key"]), FORMATS)
    refused = [file["format"] for file in rows if file["refused"] and file["format"] in INTEGERS]
    if refused:
        with plan_run(str(out), Options(assignments=(f"retrain.fold={FOLD}",))).open() as run:
            result = run.result(made["key"])
            fold = retrain_result(result, device="cpu", show=True)["fold"]
            rows += file_rows({**row, "fold": fold}, result, refused)
    return rows


def file_rows(row: dict[str, Any], result: Result, forms: Sequence[str]) -> list[dict[str, Any]]:
    """One row per format of a retrained model; `row` holds the common columns."""
    refused = {form: reason for form in forms if (reason := export(result, form))}
    files = verify_result(result)["files"] if exports(result) else []
    verified = {file["format"]: file for file in files}
    kept = ("bytes", "bytes_by_type", "top1", "agreement", "max_abs_diff", "bitops")
    rows = []
    for form in forms:
        file = None if form in refused else {key: verified[form][key] for key in kept}
        rows.append({**row, "format": form, "file": file, "refused": refused.get(form)})
        what = f"{file['bytes']:,} bytes, agreement {file['agreement']:.4f}, top-1 {file['top1']:.4f}" if file else ""
        print(f"{row['family']:22} {form:12} {refused.get(form, what)}", flush=True)
    return rows


def export(result: Result, form: str) -> str | None:
    """Exports a file; returns the reason if it was refused."""
    try:
        export_result(result, form)
    except ExportError as error:
        return str(error).replace(f"{result.path}/", "")  # without the folder of this machine
    return None


if __name__ == "__main__":
    main()
