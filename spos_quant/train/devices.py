"""Where a network trains: devices, ranks and precision in Lightning Fabric's words."""

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
        ConfigError: it is unknown or not there.
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
    """What an action takes on a device, the first of which, slow as beginnings are, does not count."""
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
        ConfigError: the device is not there.
    """
    device = device_of(device).type
    # It advises on tensor cores at every start; how exact products are is the caller's to say.
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
    """Has cuDNN use what adds in one order only: a training that goes on ends like one that never stopped."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
