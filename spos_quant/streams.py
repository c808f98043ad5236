"""All random streams, by name: two names never share a stream, and neither do two uses of one name.

A stream is numpy's `SeedSequence(seed, spawn_key=(number of the name, *where))`. NumPy pads the seed to 128 bits before
it appends the key, so streams differ if the seed, the name or any number in `where` differs.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The purpose of random numbers; the comment lists the numbers in `where`."""

    HOLD_OUT = 1  # number of images
    SUBSET = 2  # number of images
    ORDER = 3  # epoch
    AUGMENTATION = 4  # epoch, index
    FIXED_AUGMENTATION = 5  # index; images that are augmented once, to calibrate and recalibrate
    FAKE_PATTERNS = 6
    FAKE_IMAGE = 7  # index
    WEIGHTS = 8
    TRAINING_STEP = 9  # step, rank
    PATH = 10  # step
    FAIR_PATH = 11  # axis, round
    FISHER_SIGNS = 12
    EVOLUTION = 13  # generation
    RANDOM_SEARCH = 14  # generation
    RANDOM_ROW = 15  # number, attempt
    RANKED = 16  # stratum, number, attempt
    RESAMPLES = 17
    TIMED_NETWORKS = 18
    TIMED_PATH = 19  # number
    NOISE_IMAGES = 20
    CONSTRUCTION = 21


def sequence(stream: Stream, seed: int, *where: int) -> np.random.SeedSequence:
    """The seed sequence of a stream.

    Args:
        stream: The purpose.
        seed: In [0, 2^128), so that it does not overlap the key.
        where: The numbers of the stream, for example epoch and index; each in [0, 2^32).
    """
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *where))


def generator(stream: Stream, seed: int, *where: int) -> np.random.Generator:
    """NumPy's generator of a stream; arguments as in `sequence`."""
    return np.random.default_rng(sequence(stream, seed, *where))


def torch_seed(stream: Stream, seed: int, *where: int) -> int:
    """The seed of a stream for `torch.Generator().manual_seed`, in [0, 2^63); arguments as in `sequence`."""
    return int(sequence(stream, seed, *where).generate_state(1, np.uint64)[0] >> 1)
