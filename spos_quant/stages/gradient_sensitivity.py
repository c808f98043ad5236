"""The gradient estimate of a run's sensitivities: computed once and stored."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from spos_quant.cost.sensitivity import Sensitivity, from_json
from spos_quant.progress import tracked
from spos_quant.run_dir import digest, read_artifact, store_json
from spos_quant.stages.models import gradient_batches, load_supernet, recalibration_batches
from spos_quant.stages.run import Run
from spos_quant.train.devices import device_of
from spos_quant.train.evaluation import batch_norms, recalibrate
from spos_quant.train.fisher import fisher_sensitivity


def gradient_settings(run: Run) -> str:
    """Digest of everything that the estimate depends on: supernet, images, batches, threads."""
    search = run.spec.search
    images = [search.gradient_images, search.recalibration_images, search.batch_size]
    parts = [digest(run.supernet_path), run.data_source, run.seed, *images, search.threads]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def gradient_sensitivity(run: Run, *, device: str, show: bool) -> tuple[Sensitivity, bool]:
    """The estimate, and whether it was already stored.

    Args:
        run: The run; its supernet must be trained.
        device: `auto`, `cpu` or `cuda`.
        show: Whether to show progress.
    """
    path, settings = run.sensitivity_path("gradient"), gradient_settings(run)
    if path.exists():
        known: dict[str, Any] = read_artifact(path)
        if known["settings"] == settings:
            return from_json(known, run.table), True
    found = _estimated(run, device, show)
    images = gradient_batches(run).images
    store_json(path, {**found.to_json(run.table), "settings": settings, "images": images})
    return found, False


def _estimated(run: Run, device: str, show: bool) -> Sensitivity:
    supernet = load_supernet(run).to(device_of(device))
    norms = batch_norms(supernet)
    batches = gradient_batches(run)
    shown = tracked(batches, "gradients", batches.count, unit="batches", show=show)
    before = torch.get_num_threads()
    torch.set_num_threads(run.spec.search.threads)
    try:
        return fisher_sensitivity(
            supernet,
            shown,
            prepare=lambda: recalibrate(supernet, recalibration_batches(run), norms),
            seed=run.seed,
        )
    finally:
        torch.set_num_threads(before)
