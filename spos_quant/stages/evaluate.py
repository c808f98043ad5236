"""Stages: the retrained model is evaluated, and its exported files are verified from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spos_quant.errors import RunError
from spos_quant.export import api
from spos_quant.export.onnx_file import measure_onnx
from spos_quant.export.runtime import OnnxModel, compare
from spos_quant.progress import tracked
from spos_quant.run_dir import read_artifact, store, store_json
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages.models import load_model, scoring_batches
from spos_quant.stages.run import Result
from spos_quant.supernet.measure import measure
from spos_quant.train.evaluation import Score, score

FILES = {"onnx": "model.onnx", "onnx-qcdq": "model-qcdq.onnx"}


def evaluate_result(result: Result, split: str, *, show: bool = False) -> dict[str, Any]:
    """`top1, loss, n, split` of the retrained model; a known answer is given again."""
    result.need_model()
    key = split.replace("-", "_")
    known = result.metrics()
    if key not in known:
        result.run.data.split(split)
        batches = scoring_batches(result.run, split, all_images=True)
        shown = tracked(batches, f"evaluate {result.name} on {split}", batches.count, unit="batches", show=show)
        known = result.update_metrics(**{key: vars(score(load_model(result), shown))})
    return {**known[key], "split": split, "key": result.key}


def measured(result: Result) -> dict[str, Any]:
    """The cost of the retrained model, read from its own layers."""
    return measure(load_model(result), torch.zeros(1, *result.run.spec.input))


def export_result(result: Result, form: str, *, show: bool = False) -> dict[str, Any]:
    """Writes the retrained model as a file; returns `path, format, bytes, max_abs_diff, agreement`."""
    result.need_model()
    api.exporters[form]
    run = result.run
    config = read_bit_config(result.bits_path)
    metadata = {
        "preprocessing": run.data.preprocessing.to_dict(),
        "classes": list(run.data.classes),
        "bit_config": config.to_json(),
        "data": run.data.name,
    }
    path = result.path / FILES.get(form, f"model-{form}.onnx")
    batches = scoring_batches(run, "search-val", all_images=True)
    check = tracked(batches, f"check {path.name} of {result.key}", batches.count, unit="batches", show=show)
    example = next(iter(batches))[0][:1]
    made = api.export_checked(
        load_model(result), example, path, format=form, metadata=metadata, check=check, keep=store
    )
    kept = [item for item in exports(result) if item["format"] != form]
    store_json(result.exports_path, [*kept, {**made, "path": path.name}])
    return {**made, "key": result.key}


def natural_format(result: Result) -> str:
    """`onnx` for a float model, `onnx-qcdq` for a quantized one."""
    return "onnx" if read_bit_config(result.bits_path).is_float else "onnx-qcdq"


def exports(result: Result) -> list[dict[str, Any]]:
    """What was exported of a result; paths open from the current directory."""
    items: list[dict[str, Any]] = read_artifact(result.exports_path, list) if result.exports_path.exists() else []
    return [{**item, "path": str(result.path / item["path"])} for item in items]


def verify_result(result: Result, *, show: bool = False) -> dict[str, Any]:
    """Measures every exported file of a result from outside, and the retrained model beside it.

    Returns:
        `model`: its cost; `files`: per file accuracy on the test split, agreement with the model there, bytes, BitOps
        read from the graph, and whether the budget is kept; `ok`: all files agree and keep the budget.

    Raises:
        RunError: nothing was exported.
    """
    items = exports(result)
    if not items:
        raise RunError(f"{result.path} has no exported file; make one with: spos-quant export {result.run.path}")
    model = load_model(result)
    cost = measured(result)
    budget = result.search().get("budget")
    batches = list(scoring_batches(result.run, "test", all_images=True))
    ours = score(model, batches)
    shown = tracked(items, f"verify {result.key}", len(items), unit="files", show=show)
    files = [_verify_file(Path(item["path"]), item, model, batches, budget, ours) for item in shown]
    bitops_agree = all(file["bitops"] == cost["bitops"] for file in files)
    ok = bitops_agree and all(
        file["budget_kept"] is not False and file["agreement"] >= api.LEAST_AGREEMENT for file in files
    )
    return {
        "key": result.key,
        "budget": budget,
        "model": {**_totals(cost), "top1": ours.top1},
        "files": files,
        "ok": ok,
    }


def _verify_file(
    path: Path, item: dict[str, Any], model: Any, batches: list[Any], budget: dict[str, int] | None, ours: Score
) -> dict[str, Any]:
    cost = measure_onnx(path)
    runtime = OnnxModel(path)
    with torch.no_grad():
        parity = compare((model(x).numpy(), runtime(x.numpy())) for x, _ in batches)
    right = sum(int((runtime(x.numpy()).argmax(1) == y.numpy()).sum()) for x, y in batches)
    kept = None if budget is None else all(_within(cost, metric, limit) for metric, limit in budget.items())
    return {
        "path": str(path),
        "format": item["format"],
        "bytes": path.stat().st_size,
        "top1": right / ours.n,
        "n": ours.n,
        "agreement": parity.agreement,
        "max_abs_diff": parity.max_abs_diff,
        **_totals(cost),
        "budget_kept": kept,
    }


def _within(cost: dict[str, Any], metric: str, limit: int) -> bool:
    # Exporting folds BatchNorm into biases, which the budget on params does not count.
    return metric == "params" or cost[metric] is None or cost[metric] <= limit


def _totals(cost: dict[str, Any]) -> dict[str, Any]:
    return {name: cost[name] for name in ("bitops", "bitops_total", "macs", "weight_bytes")}
