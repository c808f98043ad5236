"""Devices, ranks and precision of a training, by Lightning Fabric."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from lightning_fabric import Fabric

from spos_quant.config import TrainConfig
from spos_quant.errors import ConfigError


def device_of(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means on this machine.

    Raises:
        ConfigError: the name is unknown or the device is not available.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: this machine has no CUDA device that torch can use; give --device cpu or auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def median_seconds(actions: Sequence[Callable[[], object]], device: torch.device) -> float:
    """The median duration of actions on a device in seconds. The first action is a warm-up and does not count."""
    times = []
    for action in actions:
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def make_fabric(config: TrainConfig, device: str) -> Fabric:
    """Lightning Fabric for a device name: `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: the device is not available.
    """
    device = device_of(device).type
    # Silences the advice on tensor-core precision at every start: the caller chooses the precision.
    logging.getLogger("lightning.fabric.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    if device == "cuda" and config.devices > torch.cuda.device_count():
        raise ConfigError(f"train.devices={config.devices}: this machine has {torch.cuda.device_count()} CUDA devices")
    strategy = "auto" if config.ranks == 1 else config.strategy
    if strategy == "auto" and config.ranks > 1:
        strategy = "ddp_find_unused_parameters_true"  # a path leaves most of a supernet without a gradient
    precision: Any = config.precision
    fabric = Fabric(
        accelerator=device, devices=config.devices, num_nodes=config.num_nodes, strategy=strategy, precision=precision
    )
    fabric.launch()
    return fabric


@contextmanager
def repeatable() -> Iterator[None]:
    """Restricts cuDNN to deterministic algorithms, so that a resumed training equals an uninterrupted one."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
