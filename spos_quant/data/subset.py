"""Some of a split's images: every class in its share, drawn by the seed."""

from __future__ import annotations

import numpy as np

from spos_quant.data.arrays import Labels
from spos_quant.streams import Stream, generator

RULE = "stratified/1"
"""Names how `stratified` draws; whatever was computed from a subset keeps it, and another rule is another result."""


def stratified(labels: Labels, n: int, seed: int) -> Labels:
    """`n` images in which every class has its share, to within one image.

    The shares are whole numbers by largest remainders; which images of a class, and in which order all of them come,
    follows from one permutation. It depends on the seed and the number of images only, so the classes' numbers and
    their order in the file do not matter where the images have an order of their own (`data.split.in_content_order`).

    Args:
        labels: int64 [N], the classes of all images.
        n: How many to take; all N where there are no more.
        seed: Which ones, from 0.

    Returns:
        int64 [min(n, N)], different indices in random order.
    """
    total = len(labels)
    turn = generator(Stream.SUBSET, seed, total).permutation(total)
    if n >= total:
        return turn.astype(np.int64, copy=False)
    grouped = np.argsort(labels[turn], kind="stable")  # places in the permutation, class by class
    _, starts, sizes = np.unique(labels[turn][grouped], return_index=True, return_counts=True)
    quotas, remainders = np.divmod(sizes.astype(np.int64) * n, total)
    # Of equal remainders, the class that comes first in the permutation gets the image.
    ranked = np.lexsort((grouped[starts], -remainders))
    quotas[ranked[: n - int(quotas.sum())]] += 1
    within = np.arange(total) - np.repeat(starts, sizes)
    taken = grouped[within < np.repeat(quotas, sizes)]
    return turn[np.sort(taken)].astype(np.int64, copy=False)
