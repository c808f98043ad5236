"""Batches as pure functions of (seed, epoch, index), so that checkpoints need no loader state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

from spos_quant.data.arrays import Floats, Labels, Pixels
from spos_quant.data.augmentation import Augmentation
from spos_quant.data.function import blamed
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.data.split import ArraySplit, FileSplit, Split
from spos_quant.streams import Stream, generator


def order(n: int, seed: int, epoch: int) -> Labels:
    """The random order of n images in an epoch.

    Args:
        n: Number of images.
        seed: The run's seed, from 0.
        epoch: The epoch's number, from 0.

    Returns:
        int64 [n], a permutation of 0 to n - 1.
    """
    return generator(Stream.ORDER, seed, epoch).permutation(n).astype(np.int64, copy=False)


def example(
    split: Split,
    index: int,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None,
    seed: int,
    epoch: int | None = None,
) -> Floats:
    """One image as input of a network.

    Args:
        split: The split of the image.
        index: Index of the image in the split.
        preprocessing: Normalizes the pixels.
        augmentation: Augments the image, randomized by (seed, epoch, index); None for evaluation.
        seed: The run's seed, from 0.
        epoch: The epoch's number, from 0. None uses the same augmentation at every call, for calibration and
            recalibration.

    Returns:
        float32 [C, H, W].

    Raises:
        DataError: The image's file cannot be read.
    """
    return preprocessing.normalise(_pixels(split, index, augmentation, seed, epoch))


def batch(
    split: Split,
    indices: Sequence[int] | Labels,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None,
    seed: int,
    epoch: int | None = None,
) -> tuple[Floats, Labels]:
    """A batch of images and labels. Each image equals the result of `example`, independently of the batch.

    Args:
        split: The split of the images.
        indices: n indices of images in the split.
        preprocessing: Normalizes the pixels.
        augmentation: Augments each image, randomized by (seed, epoch, index); None for evaluation.
        seed: The run's seed, from 0.
        epoch: The epoch's number, from 0, or None, as in `example`.

    Returns:
        Images, float32 [n, C, H, W], and labels, int64 [n].

    Raises:
        DataError: An image's file cannot be read.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    if not len(chosen):
        return np.zeros((0, *preprocessing.input), dtype=np.float32), np.zeros(0, dtype=np.int64)
    pixels = np.stack([_pixels(split, index, augmentation, seed, epoch) for index in chosen.tolist()])
    return preprocessing.normalise(pixels), split.labels[chosen]


def _pixels(split: Split, index: int, augmentation: Augmentation | None, seed: int, epoch: int | None) -> Pixels:
    full = augmentation is not None and augmentation.full_picture
    # Errors of a user's split class become a DataError that names the class.
    builtin = isinstance(split, ArraySplit | FileSplit)
    with nullcontext() if builtin else blamed(f"data: {type(split).__name__}, image {index}, raised"):
        image = split.raw(index) if full else split.image(index)
    if augmentation is None:
        return image
    if epoch is None:
        return augmentation.apply(image, generator(Stream.FIXED_AUGMENTATION, seed, index))
    return augmentation.apply(image, generator(Stream.AUGMENTATION, seed, epoch, index))
