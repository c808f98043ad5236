"""A data set: three disjoint splits with their preprocessing and augmentation."""

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
"""The split names that `DataSet.split` accepts."""

HELD_OUT = 0.2
"""The default share of the training images that search-val gets."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images for training, for comparing architectures and for the final evaluation.

    The constructor brings the splits into content order (`in_content_order`). A run therefore does not depend on file
    names or on the order of rows.

    Attributes:
        name: Name of the data set in reports.
        classes: The name of each class, by class number.
        preprocessing: Converts an image to the network's input.
        augmentation: Augmentation for training and for BatchNorm recalibration.
        train: Images for training weights.
        search_val: Images for comparing architectures; held out of the training images.
        test: Images for evaluating the final network.
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
        """Returns a split by its name: `train`, `search-val` or `test`.

        Raises:
            ConfigError: The name is unknown.
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
        """Makes a data set whose search-val is a stratified sample held out of `train`.

        Args:
            name: Name of the data set in reports.
            classes: The name of each class.
            preprocessing: Converts an image to the network's input.
            augmentation: Augmentation for training and for BatchNorm recalibration.
            train: All training images, including those to hold out.
            test: Images for evaluating the final network.
            seed: Selects the images to hold out, from 0.
            fraction: The share of `train` to hold out, above 0 and below 1.

        Returns:
            The data set; its `train` contains the images that were not held out.

        Raises:
            ConfigError: `fraction` is out of range.
            DataError: No class has two images.
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
    """Splits images in two parts, with the same class proportions in both (stratified).

    The images of each class are held out in the order of one random permutation. The permutation depends only on the
    seed and the number of images. A class of at least two images is in both parts; a class of one image is kept.

    Args:
        labels: int64 [N], the classes of the images.
        seed: Seed of the permutation, from 0.
        fraction: The share to hold out, above 0 and below 1.

    Returns:
        Ascending int64 indices of the kept images, and of the held-out images. Together they are 0 to N - 1.

    Raises:
        ConfigError: `fraction` is out of range.
        DataError: No class has two images.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the share of images to hold out must be above 0 and below 1, got {fraction}")
    permutation = generator(Stream.HOLD_OUT, seed, len(labels)).permutation(len(labels))
    # The stable sort keeps the order of the permutation within each class.
    grouped = permutation[np.argsort(labels[permutation], kind="stable")]
    held: list[Labels] = []
    start = 0
    for size in np.unique(labels, return_counts=True)[1].tolist():
        count = min(max(1, round(fraction * size)), size - 1)
        held.append(grouped[start : start + count])
        start += size
    held_out = np.sort(np.concatenate(held)).astype(np.int64) if held else np.zeros(0, dtype=np.int64)
    if not len(held_out):
        raise DataError(f"cannot hold images out of {len(labels)}: every class needs at least 2 training images")
    kept = np.setdiff1d(np.arange(len(labels), dtype=np.int64), held_out, assume_unique=True)
    return kept, held_out
