"""Evaluation stage: scores the retrained model on a split."""

from __future__ import annotations

from typing import Any

import torch

from spos_quant.progress import tracked
from spos_quant.quant.static import plain_tensors
from spos_quant.stages.card import write_card
from spos_quant.stages.load import load_model
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.run import Result
from spos_quant.supernet.measure import measure
from spos_quant.train.devices import device_of
from spos_quant.train.evaluation import score


def evaluate_result(result: Result, split: str, *, device: str = "auto", show: bool = False) -> dict[str, Any]:
    """`top1, loss, n, split, key` of the retrained model; stored metrics are returned without a new evaluation.

    Args:
        result: The result; its model must be retrained.
        split: `search-val` or `test`.
        device: `auto`, `cpu` or `cuda`.
        show: Whether to show progress.
    """
    result.require_model()
    key = split.replace("-", "_")
    known = result.metrics()
    if key not in known:
        result.run.data.split(split)
        batches = scoring_batches(result.run, split, all_images=True)
        shown = tracked(batches, f"evaluate {result.name} on {split}", batches.count, unit="batches", show=show)
        model = load_model(result).to(device_of(device))
        with plain_tensors(model):
            known = result.update_metrics(**{key: vars(score(model, shown))})
        if result.exports_path.exists():
            write_card(result)
    return {**known[key], "split": split, "key": result.key}


def measured(result: Result) -> dict[str, Any]:
    """The cost of the retrained model, measured on its layers."""
    return measure(load_model(result), torch.zeros(1, *result.run.spec.input))
