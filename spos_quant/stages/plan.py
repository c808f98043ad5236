"""`spos-quant plan`: time and memory of the main job on many devices, from measurements and assumptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from spos_quant.backbones.build import build
from spos_quant.config import TrainConfig
from spos_quant.cost.feasible import argmax_cost
from spos_quant.data.dataset import HELD_OUT
from spos_quant.errors import ConfigError
from spos_quant.space.search_space import Architecture
from spos_quant.space.spec import SpaceSpec
from spos_quant.stages.run import Run
from spos_quant.streams import Stream, torch_seed
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.devices import make_fabric, median_seconds
from spos_quant.train.evaluation import recalibrate, score
from spos_quant.train.loop import loss_of, make_optimizer
from spos_quant.train.paths import make_sampler

FORMAT = "spos-quant/plan/1"
MAX_GPUS = 100_000
_TIMES = 8
_IMAGES = (4, 16)
"""Batch sizes of the two timings that separate the time per step from the time per image."""
_BACKWARD = 3
"""Operations of a training step, in forward passes."""


@dataclass(frozen=True)
class Measured:
    """Measured speed of one device and memory of a supernet. Seconds are medians over random paths.

    Attributes:
        step_seconds: Time of an optimizer step that does not depend on the batch size.
        image_seconds: Time per image of a step along one path.
        evaluation_seconds: Time per image of an evaluation (recalibration or scoring).
        macs: Mean multiply-adds per image along those paths.
        weight_bytes: Bytes of the supernet's parameters, 4 bytes each.
        buffer_bytes: Bytes of its buffers (running statistics).
        subnet_bytes: Bytes of the most expensive architecture's parameters.
        activation_bytes: Bytes per image that a step saves for the backward pass, along the most expensive path.
        path_bytes: Bytes that it saves independent of the batch size: the path's quantized weights.
        paths: Paths per optimizer step.
        ddp_seconds: Time that DDP adds to a step along one path before any communication: it searches for unused
            parameters and copies gradients into its buckets.
    """

    step_seconds: float
    image_seconds: float
    evaluation_seconds: float
    macs: float
    weight_bytes: int
    buffer_bytes: int
    subnet_bytes: int
    activation_bytes: int
    path_bytes: int
    paths: int
    ddp_seconds: float

    @property
    def flops(self) -> float:
        """Floating-point operations per second in training; a multiply-add counts as two."""
        return 2 * _BACKWARD * self.macs / self.image_seconds


@dataclass(frozen=True)
class Assumed:
    """Assumptions in place of measurements.

    Attributes:
        bandwidth: Bytes per second that a rank sends while gradients are averaged.
        flops: FLOP/s of a device in training; None takes those of the measured device.
    """

    bandwidth: float = 10e9
    flops: float | None = None

    def sentences(self, measured: Measured) -> list[str]:
        """The assumptions of the estimate as text."""
        speed = measured.flops if self.flops is None else self.flops
        how = "as measured here" if self.flops is None else "assumed"
        return [
            f"a device trains at {speed / 1e12:.3g} TFLOP/s, {how}; images of a batch take equal time",
            f"a ring averages gradients at {self.bandwidth / 1e9:g} GB/s per rank, after the backward pass is done",
            f"DDP's own work adds {1000 * measured.ddp_seconds:.3g} ms to a step of several ranks, as measured here",
            "all gradients of the supernet are exchanged, including those of candidates that a step did not use",
            "ranks share a batch evenly, so their number divides its size; further devices are idle during training",
            "a generation of the search waits for its last evaluation",
            "images are read as fast as they are needed; checkpoints and start-up take no time",
            "the retrained model is as large as the most expensive architecture; an image takes as long as on a path",
        ]


def plan(
    spec: SpaceSpec, *, images: int, gpus: Sequence[int], assumed: Assumed | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Estimates time and memory of the main job for several numbers of devices.

    Args:
        spec: The search space with its recipe.
        images: Training images of the data set, of which a fifth is held out as search-val.
        gpus: Numbers of devices.
        assumed: Assumptions in place of measurements.
        device: The device to measure: `auto`, `cpu` or `cuda`.

    Returns:
        `format, space, images, measured, assumptions, rows`, in seconds and bytes.

    Raises:
        ConfigError: the number of images or devices is out of range.
    """
    if not 2 <= images <= 10**12:
        raise ConfigError(f"--data-size {images}: expected the number of training images, at least 2")
    for count in gpus:
        if not 1 <= count <= MAX_GPUS:
            raise ConfigError(f"--gpus {count}: expected 1 to {MAX_GPUS:,}")
    run = Run(Path(), spec, "fake", 0)
    measured, assumed = measure(run, device), assumed or Assumed()
    return {
        "format": FORMAT,
        "space": spec.name,
        "images": images,
        "measured": {**asdict(measured), "flops": measured.flops},
        "assumptions": assumed.sentences(measured),
        "rows": [estimate(spec, measured, assumed, images, count) for count in gpus],
    }


def estimate(spec: SpaceSpec, measured: Measured, assumed: Assumed, images: int, gpus: int) -> dict[str, Any]:
    """One row: time and memory of the main job on `gpus` devices."""
    held = max(1, round(HELD_OUT * images))
    kept = images - held
    speed = 1.0 if assumed.flops is None else measured.flops / assumed.flops
    search = spec.search
    evaluation_images = min(search.recalibration_images, kept) + min(search.max_images or held, held)
    waves = search.generations * -(-search.population // gpus)
    supernet = _training(
        spec.train, measured, assumed, kept, gpus, measured.weight_bytes + measured.buffer_bytes, measured.paths
    )
    retrain = _training(spec.retrain, measured, assumed, kept, gpus, measured.subnet_bytes, 1)
    seconds = {
        "supernet": supernet["seconds"],
        "search": waves * evaluation_images * measured.evaluation_seconds * speed,
        "retrain": retrain["seconds"],
    }
    total = sum(seconds.values())
    # Weights, gradients, momentum and, with several ranks, the gradient copies in DDP's buckets.
    copies = 3 if supernet["ranks"] == 1 else 4
    share = -(-supernet["batch"] // supernet["ranks"])
    memory = copies * measured.weight_bytes + measured.buffer_bytes
    memory += measured.path_bytes + share * measured.activation_bytes
    return {
        "gpus": gpus,
        "ranks": supernet["ranks"],
        "seconds": {**seconds, "total": total},
        "gpu_days": {name: value * gpus / 86_400 for name, value in {**seconds, "total": total}.items()},
        "step": {name: supernet[name] for name in ("compute_seconds", "communication_seconds")},
        "steps": {"supernet": supernet["steps"], "retrain": retrain["steps"]},
        "evaluations": search.population * search.generations,
        "memory_bytes": memory,
    }


def _training(
    config: TrainConfig, measured: Measured, assumed: Assumed, images: int, gpus: int, exchanged: int, paths: int
) -> dict[str, Any]:
    batch = min(config.batch_size, images)
    ranks = max(n for n in range(1, min(gpus, batch) + 1) if batch % n == 0)
    speed = 1.0 if assumed.flops is None else measured.flops / assumed.flops
    compute = measured.step_seconds + paths * measured.image_seconds * speed * (batch // ranks)
    communication = paths * 2 * (ranks - 1) / ranks * exchanged / assumed.bandwidth
    communication += paths * measured.ddp_seconds if ranks > 1 else 0.0
    steps = config.steps(max(1, images // batch))
    return {
        "batch": batch,
        "ranks": ranks,
        "steps": steps,
        "compute_seconds": compute,
        "communication_seconds": communication,
        "seconds": steps * (compute + communication),
    }


def measure(run: Run, device: str) -> Measured:
    """Times a few steps and evaluations of a fresh supernet on noise images; writes nothing."""
    config = run.spec.train.model_copy(update={"devices": 1, "num_nodes": 1})
    fabric = make_fabric(config, device)
    supernet = build(run.space)
    supernet.to(fabric.device)
    sampler = make_sampler(config, run.table, run.seed)
    drawn = [sampler.draw(step).architectures for step in range(_TIMES)]
    paths = [path for step in drawn for path in step]
    most_expensive = argmax_cost(run.table, "macs")
    with fabric.autocast():
        few, many = (_step_seconds(supernet, config, _images(run, n, fabric.device), paths) for n in _IMAGES)
        wrapped = _wrapped_seconds(supernet, config, _images(run, _IMAGES[0], fabric.device), paths)
        evaluation = _evaluation_seconds(supernet, _images(run, _IMAGES[1], fabric.device), paths)
        less, more = (_kept_bytes(supernet, _images(run, n, fabric.device), most_expensive) for n in _IMAGES)
    per_image = max(many - few, 1e-3 * many) / (_IMAGES[1] - _IMAGES[0])
    parameters = sum(p.numel() for p in supernet.parameters())
    return Measured(
        step_seconds=max(0.0, few - _IMAGES[0] * per_image),
        image_seconds=per_image,
        evaluation_seconds=evaluation / _IMAGES[1],
        macs=float(np.mean(run.table.totals(paths, "macs"))),
        weight_bytes=4 * parameters,
        buffer_bytes=sum(b.numel() * b.element_size() for b in supernet.buffers()),
        subnet_bytes=4 * run.table.total(most_expensive, "params"),
        activation_bytes=(more - less) // (_IMAGES[1] - _IMAGES[0]),
        path_bytes=less - _IMAGES[0] * (more - less) // (_IMAGES[1] - _IMAGES[0]),
        paths=max(1, len(drawn[0])),
        ddp_seconds=max(0.0, wrapped - few),
    )


def _images(run: Run, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images `[n, C, H, W]` of noise and labels `[n]`."""
    generator = torch.Generator().manual_seed(torch_seed(Stream.NOISE_IMAGES, run.seed))
    x = torch.randn((n, *run.spec.input), generator=generator)
    y = torch.arange(n) % run.spec.classes
    return x.to(device), y.to(device)


def _wrapped_seconds(
    supernet: Supernet, config: TrainConfig, batch: tuple[Tensor, Tensor], paths: Sequence[Architecture]
) -> float:
    """`_step_seconds` under DDP, in a process group of size 1."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:  # as `strategy: auto` wraps a supernet, because a path leaves most parameters unused
        wrapped = DistributedDataParallel(supernet, find_unused_parameters=True)
        return _step_seconds(supernet, config, batch, paths, wrapped)
    finally:
        distributed.destroy_process_group()


def _step_seconds(
    supernet: Supernet,
    config: TrainConfig,
    batch: tuple[Tensor, Tensor],
    paths: Sequence[Architecture],
    wrapped: nn.Module | None = None,
) -> float:
    """Median time of an optimizer step along one path; the first step, which allocates memory, does not count."""
    forward = supernet if wrapped is None else wrapped
    optimizer = make_optimizer(supernet, config)
    supernet.train()

    def step(path: Architecture) -> None:
        supernet.activate(path)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss_of(forward(batch[0]), batch[1], config, None))
        nn.utils.clip_grad_norm_(supernet.parameters(), config.clip_grad or float("inf"))
        optimizer.step()

    return median_seconds([partial(step, path) for path in (paths[0], *paths)], batch[0].device)


def _evaluation_seconds(supernet: Supernet, batch: tuple[Tensor, Tensor], paths: Sequence[Architecture]) -> float:
    """Time of one forward pass of a batch: half of recalibration and scoring."""

    def evaluate(path: Architecture) -> None:
        supernet.activate(path)
        recalibrate(supernet, [batch])
        score(supernet, [batch])

    return median_seconds([partial(evaluate, path) for path in (paths[0], *paths)], batch[0].device) / 2


def _kept_bytes(supernet: Supernet, batch: tuple[Tensor, Tensor], path: Architecture) -> int:
    """Bytes that autograd saves for the backward pass of a batch: each storage once, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*supernet.parameters(), *supernet.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    supernet.activate(path)
    supernet.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(supernet(batch[0]), batch[1], TrainConfig(), None)
    size = sum(kept.values())
    del loss  # kept until here, because it holds the saved tensors
    return size
