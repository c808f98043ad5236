"""CIFAR-10 for float weights that were trained on all its training images: half of the test images are search-val.

Training images must not select anything, because the network has memorized them. Here train and search-val are both
used for training; half of the test images, drawn class by class, is search-val, and the other half is test. No choice
uses test, and it is the same for every run.

    CIFAR10=FOLDER PYTHONPATH=benchmarks spos-quant ... --data cifar10_halves:load

FOLDER is that of `imagefolder:FOLDER`.
"""

from __future__ import annotations

import os

import numpy as np

from spos_quant.data import DataSet, FileSplit, hold_out, load_data


def load() -> DataSet:
    """The data set: images `[3, 32, 32]`, 10 classes."""
    root = os.environ["CIFAR10"]
    whole = load_data(f"imagefolder:{root}", input=(3, 32, 32), classes=10, seed=0)
    parts = [part for part in (whole.train, whole.search_val) if isinstance(part, FileSplit)]
    paths = tuple(path for part in parts for path in part.paths)
    measured, chosen = hold_out(whole.test.labels, seed=0, fraction=0.5)
    return DataSet(
        name="cifar10_halves",
        classes=whole.classes,
        preprocessing=whole.preprocessing,
        augmentation=whole.augmentation,
        train=FileSplit(paths, np.concatenate([part.labels for part in parts]), whole.preprocessing),
        search_val=whole.test.subset(chosen),
        test=whole.test.subset(measured),
    )
