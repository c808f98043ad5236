"""`spos-quant verify`: measures every exported file from its own metadata, outputs and nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spos_quant.cost.metrics import formula_metrics, metrics
from spos_quant.errors import RunError
from spos_quant.export import api
from spos_quant.export.runtime import Floats, compare
from spos_quant.progress import tracked
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages.export import exports
from spos_quant.stages.fold import exports_folded, model_to_export
from spos_quant.stages.load import load_model
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.predict import parse_metadata, split_answers
from spos_quant.stages.run import Result
from spos_quant.supernet.measure import measure


def verify_result(result: Result, *, show: bool = False) -> dict[str, Any]:
    """Measures every exported file of a result, and the retrained model.

    A file is evaluated on the test split with the preprocessing of its metadata; its cost is measured on its nodes.

    Returns:
        `key`, `budget`; `model`: cost and accuracy; `files`: per file accuracy on the test split, agreement with the
        model there, bytes by type, BitOps, and whether it keeps the budget; `ok`: all files agree and keep the budget.

    Raises:
        RunError: nothing was exported.
        ExportError: a file cannot be read, run or measured.
    """
    items = exports(result)
    if not items:
        raise RunError(f"{result.path} has no exported file; make one with: spos-quant export {result.run.path}")
    model = load_model(result)
    cost = measure(model, torch.zeros(1, *result.run.spec.input))
    logits = _logits(model, result)
    budget = result.search().get("budget")
    predicted = _predicted(result, budget or {})
    shown = tracked(items, f"verify {result.key}", len(items), unit="files", show=show)
    files = [
        _verify_file(
            Path(item["path"]), item["format"], result, _shipped(result, item["format"], logits), budget, predicted
        )
        for item in shown
    ]
    return {
        "key": result.key,
        "budget": budget,
        "model": {**_totals(cost), "top1": _top1(logits, result)},
        "files": files,
        "ok": all(
            file["bitops"] == cost["bitops"]
            and file["budget_kept"] is not False
            and file["agreement"] >= api.MIN_AGREEMENT
            for file in files
        ),
    }


@torch.no_grad()
def _logits(model: nn.Module, result: Result) -> Floats:
    """Logits of the model on the test split, `[N, classes]`."""
    batches = scoring_batches(result.run, "test", all_images=True)
    answers: Floats = np.concatenate([model(x).numpy() for x, _ in batches])
    return answers


def _shipped(result: Result, form: str, logits: Floats) -> Floats:
    """The expected logits of a file, `[N, classes]`: of the trained integers if it exports them, else of the model."""
    return _logits(model_to_export(result, form), result) if exports_folded(result, form) else logits


def _top1(logits: Floats, result: Result) -> float:
    return float((logits.argmax(1) == result.run.data.split("test").labels).mean())


def _verify_file(
    path: Path,
    name: str,
    result: Result,
    logits: Floats,
    budget: dict[str, int] | None,
    predicted: dict[str, int],
) -> dict[str, Any]:
    form = api.exporters[name]
    file_metadata = parse_metadata(path, form.metadata(path))
    cost, sizes = form.measure(path), form.sizes(path)
    answers = split_answers(form.open(path), path, file_metadata, result.run.data, "test")
    theirs = np.concatenate([part for part, _ in answers])
    parity = compare([(logits, theirs)])
    known = {**cost, **predicted}
    kept = None if budget is None else all(_within(known, metric, limit) for metric, limit in budget.items())
    return {
        "path": str(path),
        "format": name,
        "bytes": path.stat().st_size,
        "bytes_by_type": sizes,
        "top1": _top1(theirs, result),
        "n": len(theirs),
        "agreement": parity.agreement,
        "max_abs_diff": parity.max_abs_diff,
        **_totals(cost),
        "budget_kept": kept,
    }


def _predicted(result: Result, budget: Mapping[str, int]) -> dict[str, int]:
    """The costs by the run's table that have a budget; they cannot be measured on the file itself."""
    config = read_bit_config(result.bits_path)
    return {name: result.run.table.config_total(config, name) for name in budget if metrics[name].formula is None}


def _within(cost: dict[str, Any], metric: str, limit: int) -> bool:
    return not metrics[metric].exact_in_files or cost[metric] is None or cost[metric] <= limit


def _totals(cost: dict[str, Any]) -> dict[str, Any]:
    return {name: cost[name] for name, metric in formula_metrics().items() if metric.exact_in_files}
