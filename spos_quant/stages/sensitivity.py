"""Sensitivity stage: the degradation by each candidate of each axis, stored in the run."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from spos_quant.cost.sensitivity import ESTIMATES, Perturbations, measured
from spos_quant.errors import ConfigError, near
from spos_quant.progress import progress
from spos_quant.run_dir import read_artifact, store_json
from spos_quant.searchers.base import Evaluator
from spos_quant.stages.evaluator import evaluator_settings, logged_evaluator
from spos_quant.stages.gradient_sensitivity import gradient_sensitivity
from spos_quant.stages.models import scoring_batches
from spos_quant.stages.run import Run


def check_estimate(estimate: str) -> None:
    """Raises `ConfigError` if the estimate is unknown."""
    if estimate not in ESTIMATES:
        raise ConfigError(f"--estimate {estimate!r}: unknown{near(estimate, ESTIMATES)}")


def sensitivity_run(
    run: Run,
    *,
    estimate: str,
    device: str,
    show: bool,
    workers: int = 0,
    ray: str | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """The sensitivities of a run; a finished estimate is returned as stored.

    Args:
        run: The run; its supernet must be trained.
        estimate: `measured` (its evaluations go to the run's log) or `gradient`.
        device: `auto`, `cpu` or `cuda`.
        show: Whether to show progress.
        workers: Evaluator processes of the measured estimate; 0 evaluates in this process.
        ray: Address of a Ray cluster whose actors evaluate instead.
        timeout: Seconds after which no further architecture is evaluated.

    Returns:
        The content of the artifact, with `path`, `skipped` and `complete` (False if time ran out: only the evaluations
        are stored).
    """
    check_estimate(estimate)
    path = run.sensitivity_path(estimate)
    if estimate == "gradient":
        _, skipped = gradient_sensitivity(run, device=device, show=show)
        return {**read_artifact(path), "path": str(path), "complete": True, "skipped": skipped}
    settings = evaluator_settings(run)
    if path.exists():
        known: dict[str, Any] = read_artifact(path)
        if known["settings"] == settings:
            return {**known, "path": str(path), "complete": True, "skipped": True}
    with ExitStack() as stack:
        found = _measured(run, logged_evaluator(run, device, workers, stack, ray=ray), show, timeout)
    if found is None:
        return {"path": None, "rows": [], "complete": False, "skipped": False}
    store_json(path, {**found, "settings": settings})
    return {**found, "settings": settings, "path": str(path), "complete": True, "skipped": False}


def _measured(run: Run, evaluate: Evaluator, show: bool, timeout: float | None) -> dict[str, Any] | None:
    """The content to store; None if time ran out."""
    perturbations = Perturbations(run.table)
    asked = perturbations.architectures
    deadline = None if timeout is None else time.monotonic() + timeout
    found = {}
    with progress("sensitivity", len(asked), unit="architectures", show=show) as tick:
        for one in evaluate(asked):
            found[one.architecture] = (one.score, one.loss)
            tick(f"top-1 {one.score:.4f}")
            if deadline is not None and time.monotonic() > deadline and len(found) < len(asked):
                return None
    score, loss = found[perturbations.reference]
    scored = scoring_batches(run, "search-val").images
    images = {"recalibration": run.spec.search.recalibration_images, "search_val": scored}
    return {
        **measured(perturbations, found).to_json(run.table),
        "reference_score": score,
        "reference_loss": loss,
        "images": images,
    }


def known_sensitivities(run: Run) -> list[dict[str, Any]]:
    """The stored estimates, for the report."""
    paths = [run.sensitivity_path(estimate) for estimate in ESTIMATES]
    return [read_artifact(path) for path in paths if path.exists()]
