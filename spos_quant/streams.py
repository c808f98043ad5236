"""Every generator of random numbers, by name: two names never share a stream, and neither do two uses of one name.

A stream is numpy's `SeedSequence(seed, spawn_key=(number of the name, *where))`. NumPy fills the seed up to 128 bits
before it appends the key, so streams differ wherever the seed, the name or any number behind it differs.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are drawn for; the comment gives the numbers that follow the name."""

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
        stream: What is drawn.
        seed: From 0; below 2^128, which keeps it apart from the numbers behind it.
        where: The stream's numbers, such as epoch and index; each from 0 and below 2^32.
    """
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *where))


def generator(stream: Stream, seed: int, *where: int) -> np.random.Generator:
    """NumPy's generator of a stream; arguments as of `sequence`."""
    return np.random.default_rng(sequence(stream, seed, *where))


def torch_seed(stream: Stream, seed: int, *where: int) -> int:
    """What `torch.Generator().manual_seed` takes for a stream, in [0, 2^63); arguments as of `sequence`."""
    return int(sequence(stream, seed, *where).generate_state(1, np.uint64)[0] >> 1)
