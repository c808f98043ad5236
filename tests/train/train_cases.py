"""A data set that is learned in seconds, and a small search space for it with every kind of axis."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from spos_quant.backbones.build import build, space_of
from spos_quant.config import SupernetTrainConfig, TrainConfig
from spos_quant.cost.table import CostTable
from spos_quant.data import ArraySplit, Augmentation, DataSet, Preprocessing
from spos_quant.space.search_space import SearchSpace
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.loop import Training
from spos_quant.train.paths import Paths, Step, make_sampler

CLASSES = 4


def split(n: int, seed: int) -> ArraySplit:
    """Noise with one bright quarter, whose position is the class."""
    rng = np.random.default_rng([7, seed])
    labels = np.arange(n, dtype=np.int64) % CLASSES
    images = rng.integers(0, 80, (n, 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 150
    return ArraySplit(images, labels)


def data(n: int = 40) -> DataSet:
    preprocessing = Preprocessing(size=(8, 8), channels=1, mean=(0.3,), std=(0.27,))
    augmentation = Augmentation(size=(8, 8), pad=1)
    return DataSet(
        "quarters", tuple("abcd"), preprocessing, augmentation, split(n, 0), split(max(4, n // 2), 1), split(8, 2)
    )


@cache
def space() -> SearchSpace:
    raw = {
        "name": "small",
        "backbone": "digits-resnet",
        "input": [1, 8, 8],
        "classes": CLASSES,
        "axes": {
            "op": ["conv3x3", "bottleneck", "skip"],
            "width": [0.5, 1.0],
            "bits": [[1, 2], [2, 4], [4, "float"], [8, 1]],
        },
    }
    return space_of(parse_spec(raw, "small"))


@cache
def table() -> CostTable:
    return CostTable(space())


def drawing(seed: int, **config: Any) -> Paths:
    """The paths of every step of a sampler over the small space, `uniform` by default."""
    return make_sampler(SupernetTrainConfig(**config), table(), seed).draw


def hooked(hook: Callable[[int], tuple[int, ...] | None]) -> Paths:
    """Calls `hook` at every step, and trains along the architecture that it returns, if any."""

    def paths(step: int) -> Step:
        path = hook(step)
        return Step() if path is None else Step((path,))

    return paths


def supernet(seed: int = 0) -> Supernet:
    return build(space(), seed=seed)


def training(n: int = 40, seed: int = 0, **config: Any) -> Training:
    given = {"epochs": 1, "batch_size": 10, "lr": 0.05, "warmup_epochs": 0.0, **config}
    return Training(data(n), TrainConfig(**given), seed, "training", show=False)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def used(model: nn.Module, path: tuple[int, ...]) -> set[str]:
    """Names of the parameters that affect a path's loss."""
    probe = copy.deepcopy(model)
    probe.train()
    probe.activate(path)
    probe.zero_grad(set_to_none=True)
    probe(torch.randn(4, 1, 8, 8)).square().sum().backward()
    return {name for name, p in probe.named_parameters() if p.grad is not None}
