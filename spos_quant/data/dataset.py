"""A data set: three splits that share no picture, and what is done to their pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spos_quant.data.arrays import Labels
from spos_quant.data.augmentation import Augmentation
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.data.split import Split, in_content_order
from spos_quant.errors import ConfigError, DataError, near
from spos_quant.streams import Stream, generator

SPLITS = ("train", "search-val", "test")
"""The names that `DataSet.split` takes."""

HELD_OUT = 0.2
"""The share of the training pictures that search-val gets where nobody says otherwise."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Pictures for training, for choosing between architectures and for the one final measurement.

    Its splits are in content order (`in_content_order`), whatever order their maker gave them: a run does not depend
    on how files are named or rows sorted.

    Attributes:
        name: What the data set is called in reports.
        classes: The name of each class, by class number.
        preprocessing: How a picture becomes the network's input.
        augmentation: How training and recalibration vary pictures.
        train: What weights are trained on.
        search_val: What architectures are compared on; held out of the training pictures.
        test: What the final network is measured on.
    """

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    augmentation: Augmentation
    train: Split
    search_val: Split
    test: Split

    def __post_init__(self) -> None:
        for name in ("train", "search_val", "test"):
            object.__setattr__(self, name, in_content_order(getattr(self, name)))

    def split(self, name: str) -> Split:
        """A split by its name: `train`, `search-val` or `test`.

        Raises:
            ConfigError: There is no such split.
        """
        if name not in SPLITS:
            raise ConfigError(f"unknown split {name!r}{near(name, SPLITS)}")
        return {"train": self.train, "search-val": self.search_val, "test": self.test}[name]

    @classmethod
    def holding_out(
        cls,
        *,
        name: str,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        train: Split,
        test: Split,
        seed: int,
        fraction: float = HELD_OUT,
    ) -> DataSet:
        """Makes a data set whose search-val is held out of `train`, class by class.

        Args:
            name: What the data set is called in reports.
            classes: The name of each class.
            preprocessing: How a picture becomes the network's input.
            augmentation: How training and recalibration vary pictures.
            train: All pictures that may be trained on.
            test: The pictures of the final measurement.
            seed: Which pictures are held out, from 0.
            fraction: The share of `train` to hold out, above 0 and below 1.

        Returns:
            The data set; its `train` is what was not held out.

        Raises:
            ConfigError: `fraction` is out of range.
            DataError: No class has a picture to spare.
        """
        train = in_content_order(train)
        kept, held = hold_out(train.labels, seed=seed, fraction=fraction)
        return cls(
            name=name,
            classes=classes,
            preprocessing=preprocessing,
            augmentation=augmentation,
            train=train.subset(kept),
            search_val=train.subset(held),
            test=test,
        )


def hold_out(labels: Labels, *, seed: int, fraction: float = HELD_OUT) -> tuple[Labels, Labels]:
    """Divides pictures in two, every class in the same proportion.

    One permutation, which depends on the seed and the number of pictures only, decides; of each class, those that come
    first in it are held out. A class of two pictures or more is in both parts; a class of one is only kept.

    Args:
        labels: int64 [N], the classes of the pictures.
        seed: Which pictures, from 0.
        fraction: The share to hold out, above 0 and below 1.

    Returns:
        Indices of the pictures that are kept and of those held out, int64 and ascending; together 0 to N - 1.

    Raises:
        ConfigError: `fraction` is out of range.
        DataError: No class has two pictures.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the share of pictures to hold out must be above 0 and below 1, got {fraction}")
    turn = generator(Stream.HOLD_OUT, seed, len(labels)).permutation(len(labels))
    # Sorting the permuted labels stably groups the classes and keeps the permutation within each.
    grouped = turn[np.argsort(labels[turn], kind="stable")]
    held: list[Labels] = []
    start = 0
    for size in np.unique(labels, return_counts=True)[1].tolist():
        count = min(max(1, round(fraction * size)), size - 1)
        held.append(grouped[start : start + count])
        start += size
    held_out = np.sort(np.concatenate(held)).astype(np.int64) if held else np.zeros(0, dtype=np.int64)
    if not len(held_out):
        raise DataError(f"cannot hold pictures out of {len(labels)}: every class needs at least 2 training images")
    kept = np.setdiff1d(np.arange(len(labels), dtype=np.int64), held_out, assume_unique=True)
    return kept, held_out
