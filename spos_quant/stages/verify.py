"""`spos-quant verify`: every exported file measured from outside, by what it says, answers and holds itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spos_quant.cost.units import LATENCY
from spos_quant.errors import RunError
from spos_quant.export import api
from spos_quant.export.runtime import Floats, compare
from spos_quant.progress import tracked
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages.export import exports
from spos_quant.stages.fold import shipped_model, ships_folded
from spos_quant.stages.load import load_model
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.predict import said, split_answers
from spos_quant.stages.run import Result
from spos_quant.supernet.measure import measure


def verify_result(result: Result, *, show: bool = False) -> dict[str, Any]:
    """Measures every exported file of a result, and the retrained model beside them.

    A file is asked about the pictures of the test split as it says that pictures are to be prepared; what it costs is
    read from its own nodes.

    Returns:
        `model`: its cost and accuracy; `files`: per file accuracy on the test split, agreement with the model there,
        bytes by type, BitOps, and whether the budget is kept; `ok`: all files agree and keep the budget.

    Raises:
        RunError: nothing was exported.
        ExportError: a file that cannot be read, run or measured.
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
            and file["agreement"] >= api.LEAST_AGREEMENT
            for file in files
        ),
    }


@torch.no_grad()
def _logits(model: nn.Module, result: Result) -> Floats:
    """What the model answers to the test split, `[n, classes]`."""
    batches = scoring_batches(result.run, "test", all_images=True)
    answers: Floats = np.concatenate([model(x).numpy() for x, _ in batches])
    return answers


def _shipped(result: Result, form: str, logits: Floats) -> Floats:
    """What a file is to answer: as the model, or as the integers that its training ended in."""
    return _logits(shipped_model(result, form), result) if ships_folded(result, form) else logits


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
    speaks = said(path, form.said(path))
    cost, sizes = form.measure(path), form.sizes(path)
    answers = split_answers(form.open(path), path, speaks, result.run.data, "test")
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
    """The latency by the run's table, where it is bounded; a file cannot say how long it takes on that device."""
    if LATENCY not in budget:
        return {}
    return {LATENCY: result.run.table.config_total(read_bit_config(result.bits_path), LATENCY)}


def _within(cost: dict[str, Any], metric: str, limit: int) -> bool:
    # Exporting folds BatchNorm into biases, which the budget on params does not count.
    return metric == "params" or cost[metric] is None or cost[metric] <= limit


def _totals(cost: dict[str, Any]) -> dict[str, Any]:
    return {name: cost[name] for name in ("bitops", "bitops_total", "macs", "weight_bytes")}
