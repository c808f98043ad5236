"""Training stage: trains the supernet."""

from __future__ import annotations

from typing import Any

from spos_quant.backbones.build import build
from spos_quant.cost.feasible import argmax_cost
from spos_quant.cost.sensitivity import reference_metric
from spos_quant.progress import remark
from spos_quant.run_dir import check, drop
from spos_quant.stages.launch_ranks import train_distributed
from spos_quant.stages.models import calibrate, calibration_batches, float_teacher
from spos_quant.stages.run import Run
from spos_quant.supernet.supernet import Supernet
from spos_quant.supernet.weights import read_weights_metadata, save_weights
from spos_quant.train.devices import make_fabric
from spos_quant.train.evaluation import score
from spos_quant.train.loop import Training, fit
from spos_quant.train.paths import make_sampler


def train_supernet(run: Run, *, device: str, show: bool) -> dict[str, Any]:
    """Trains the supernet of a run if it is missing; returns `supernet`, `epoch`, `loss`, `top1` and `skipped`.

    With `train.iterations=0` the weights of the space's file are used without training, and clips are calibrated.
    """
    skipped = run.supernet_path.exists()
    if skipped:
        check(run.supernet_path)
    if not skipped and not train_distributed(run, "supernet", run.spec.train, device):
        train_in_process(run, device=device, show=show)
    last = history(run)[-1]
    return {**last, "supernet": str(run.supernet_path), "skipped": skipped}


def train_in_process(run: Run, *, device: str, show: bool) -> None:
    """Trains the supernet in this process: the only rank or one of several."""
    fabric = make_fabric(run.spec.train, device)
    sampler = make_sampler(run.spec.train, run.table, run.seed)
    if fabric.global_rank == 0:
        for text in sampler.remarks:
            remark(text)
    supernet = build(run.space, seed=run.seed)
    calibrate(run, supernet)
    training = Training(
        run.data,
        run.spec.train,
        run.seed,
        "supernet",
        show,
        checkpoint=run.checkpoint_path,
        identity="supernet",
        loggers=run.spec.log,
        logs=run.logs("supernet"),
    )
    if run.spec.train.iterations == 0:
        records = [_untrained(run, supernet)]
    else:
        teacher = float_teacher(run, run.spec.train.distill)
        records = fit(fabric, supernet, training, teacher=teacher, paths=sampler.draw)
    if fabric.global_rank == 0:
        save_weights(supernet, run.supernet_path, {"history": records})
        drop(run.checkpoint_path)
    fabric.barrier()


def _untrained(run: Run, supernet: Supernet) -> dict[str, Any]:
    """The record of untrained weights: loss and top-1 of the most expensive path on the calibration images."""
    supernet.activate(argmax_cost(run.table, reference_metric(run.space)))
    found = score(supernet, calibration_batches(run))
    return {"epoch": 0, "loss": found.loss, "top1": found.top1, "lr": 0.0, "skipped": 0}


def history(run: Run) -> list[dict[str, Any]]:
    """One record per epoch of the supernet's training; empty if it is not trained yet."""
    records: list[dict[str, Any]] = (
        read_weights_metadata(run.supernet_path)["history"] if run.supernet_path.exists() else []
    )
    return records
