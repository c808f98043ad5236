"""The evaluator of a run: in this process, in worker processes, or on a Ray cluster, with equal results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spos_quant.backbones.build import build, space_of
from spos_quant.data.subset import RULE
from spos_quant.progress import remark
from spos_quant.quant.integers import integers_available
from spos_quant.quant.kernels import WORTH_COMPILING
from spos_quant.run_dir import digest
from spos_quant.searchers.base import Evaluator
from spos_quant.searchers.evaluation_log import EvaluationLog
from spos_quant.searchers.evaluators import CachedEvaluator, SupernetEvaluator, ThreadLimit
from spos_quant.searchers.process_backend import ProcessBackend
from spos_quant.searchers.ray_backend import RayBackend
from spos_quant.searchers.worker_pool import EvaluatorPool
from spos_quant.space.spec import SpaceSpec
from spos_quant.stages.models import recalibration_batches, scoring_batches
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.run import Run
from spos_quant.supernet.weights import load_weights, read_weights
from spos_quant.train.allocation import keep_freed_memory
from spos_quant.train.batches import FixedBatches
from spos_quant.train.devices import device_of

_WORTH_REORDERING = 1_000_000
"""Pixels per evaluation from which weights use the channels-last format: a thousand images of 32 x 32."""


@dataclass(frozen=True)
class EvaluatorParts:
    """The parts of an evaluator. They are sent to other machines, so they are plain values and arrays, not run files.

    A data set that reads images from a folder reads them from the same folder there.
    """

    spec: SpaceSpec
    weights: Mapping[str, npt.NDArray[Any]]
    recalibration: FixedBatches
    validation: FixedBatches


def evaluator_parts(run: Run, all_images: bool = False) -> EvaluatorParts:
    """The parts of a run's evaluator; its supernet must be trained. `all_images` scores on all of search-val."""
    weights = {name: tensor.numpy() for name, tensor in read_weights(run.supernet_path).items()}
    spec = run.spec.model_copy(update={"weights": None})  # replaced by the trained ones
    validation = scoring_batches(run, "search-val", all_images=all_images)
    return EvaluatorParts(spec, weights, recalibration_batches(run), validation)


def make_evaluator(parts: EvaluatorParts, device: str, number: int = 0) -> Evaluator:
    """Makes an evaluator.

    Args:
        parts: From `evaluator_parts`.
        device: `auto`, `cpu` or `cuda`.
        number: Index of the worker; workers are assigned to the CUDA devices round-robin.
    """
    supernet = build(space_of(parts.spec))
    # Copies, because torch expects writable arrays and those from an object store are read-only.
    load_weights(
        supernet, {name: torch.from_numpy(np.array(array)) for name, array in parts.weights.items()}, "supernet"
    )
    where = device_of(device)
    if where.type == "cuda":
        where = torch.device("cuda", number % torch.cuda.device_count())
    supernet.to(where)
    search, (_, height, width) = parts.spec.search, parts.spec.input
    pixels = (len(parts.recalibration) + len(parts.validation)) * height * width
    # Compiling saves a tenth as much in a forward pass as in a training step.
    long = pixels * search.population * search.generations >= 10 * WORTH_COMPILING
    evaluate = SupernetEvaluator(
        supernet,
        parts.recalibration,
        parts.validation,
        compiled=None if long and where.type == "cuda" else long,
        # Depends on one evaluation only, because searches of any size share scores.
        channels_last=pixels >= _WORTH_REORDERING,
        int8=search.int8 and _integers_on(where),
        prefix_bytes=search.prefix_mb * 2**20 // (len(parts.recalibration) + len(parts.validation)),
    )
    if where.type == "cpu" and pixels >= _WORTH_REORDERING:
        keep_freed_memory()
    return ThreadLimit(evaluate, search.threads)


def _integers_on(device: torch.device) -> bool:
    """Whether the device supports integer convolutions; prints a remark if not."""
    can = device.type == "cpu" and integers_available()
    if not can:
        lacks = "works on a CPU" if device.type != "cpu" else "needs a processor with VNNI and a torch with oneDNN"
        remark(f"search.int8 {lacks}: candidates are evaluated in float instead; results differ only by rounding")
    return can


def load_evaluator(path: Path, device: str, all_images: bool = False, number: int = 0) -> Evaluator:
    """Loads the evaluator of a run from its directory; worker processes call it at start."""
    return make_evaluator(evaluator_parts(open_existing(str(path)), all_images), device, number)


def _on_cluster(parts: EvaluatorParts, device: str, number: int, gpu: bool) -> Evaluator:
    """Makes the evaluator of a Ray actor; without an assigned GPU it uses the CPU, even if its node has GPUs."""
    return make_evaluator(parts, device if gpu else "cpu", number)


def evaluator_settings(run: Run, all_images: bool = False) -> str:
    """Digest of everything besides the architecture that a score depends on: supernet, images, batches, threads."""
    search = run.spec.search
    images = [search.recalibration_images, search.batch_size, None if all_images else search.max_images]
    parts = [digest(run.supernet_path), run.data_source, run.seed, RULE, *images, search.threads]
    if search.int8:  # added only if set, so that existing logs of float evaluations stay valid
        parts.append("int8")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def open_log(run: Run, all_images: bool = False) -> EvaluationLog:
    """Opens the log of evaluations of the run's supernet."""
    return EvaluationLog(run.log_path, run.space, evaluator_settings(run, all_images))


def logged_evaluator(
    run: Run, device: str, workers: int, stack: ExitStack, *, ray: str | None = None, all_images: bool = False
) -> CachedEvaluator:
    """The evaluator of a run's supernet, which evaluates each architecture once; only this process writes the log.

    Args:
        run: The run; its supernet must be trained.
        device: `auto`, `cpu` or `cuda`.
        workers: Evaluator processes or Ray actors; 0 evaluates in this process, or in as many actors as fit.
        stack: Closes workers and log; the evaluator is usable until then.
        ray: Address of a Ray cluster whose actors evaluate; None evaluates on this machine.
        all_images: Whether to score on all images of search-val instead of `search.max_images`.
    """
    log = stack.enter_context(open_log(run, all_images))
    if others := log.count_with_other_settings([evaluator_settings(run, whole) for whole in (False, True)]):
        remark(
            f"{others:,} evaluations in {run.log_path} were made with another supernet, other images or other threads; "
            "they are kept, but not used"
        )
    evaluator: Evaluator
    if ray is not None:
        share = run.spec.ray
        actors = RayBackend(
            partial(_on_cluster, evaluator_parts(run, all_images), device),
            ray,
            workers,
            cpus=run.spec.search.threads if share.cpus is None else share.cpus,
            gpus=0.0 if device == "cpu" else share.gpus,
        )
        evaluator = stack.enter_context(EvaluatorPool(actors))
    elif workers:
        evaluator = stack.enter_context(
            EvaluatorPool(ProcessBackend(partial(load_evaluator, run.path, device, all_images), workers))
        )
    else:
        evaluator = load_evaluator(run.path, device, all_images)
    return CachedEvaluator(evaluator, log)
