"""The arrays of a training or evaluation step, as functions of (seed, epoch, index): nothing to save or restore."""

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
    """The order in which an epoch visits n pictures.

    Args:
        n: Number of pictures.
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
    """One picture as a network takes it.

    Args:
        split: Where the picture is from.
        index: Its number in the split.
        preprocessing: Scales its pixels.
        augmentation: Varies it by (seed, epoch, index); None for evaluation.
        seed: The run's seed, from 0.
        epoch: The epoch's number, from 0; None varies the picture once, for calibration and recalibration.

    Returns:
        float32 [C, H, W].

    Raises:
        DataError: The picture's file cannot be read.
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
    """Several pictures and their labels; each picture equals what `example` makes of it, in whatever batch it is.

    Args:
        split: Where the pictures are from.
        indices: n numbers of pictures in the split.
        preprocessing: Scales their pixels.
        augmentation: Varies each by (seed, epoch, index); None for evaluation.
        seed: The run's seed, from 0.
        epoch: The epoch's number, from 0; None as of `example`.

    Returns:
        Pictures, float32 [n, C, H, W], and labels, int64 [n].

    Raises:
        DataError: A picture's file cannot be read.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    if not len(chosen):
        return np.zeros((0, *preprocessing.input), dtype=np.float32), np.zeros(0, dtype=np.int64)
    pixels = np.stack([_pixels(split, index, augmentation, seed, epoch) for index in chosen.tolist()])
    return preprocessing.normalise(pixels), split.labels[chosen]


def _pixels(split: Split, index: int, augmentation: Augmentation | None, seed: int, epoch: int | None) -> Pixels:
    full = augmentation is not None and augmentation.full_picture
    # What a split of another's making raises is no fault of ours; of our own splits it is.
    ours = isinstance(split, ArraySplit | FileSplit)
    with nullcontext() if ours else blamed(f"data: {type(split).__name__}, picture {index}, raised"):
        picture = split.raw(index) if full else split.image(index)
    if augmentation is None:
        return picture
    if epoch is None:
        return augmentation.apply(picture, generator(Stream.FIXED_AUGMENTATION, seed, index))
    return augmentation.apply(picture, generator(Stream.AUGMENTATION, seed, epoch, index))
