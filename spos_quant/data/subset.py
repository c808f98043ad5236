"""Stratified random subsets of a split."""

from __future__ import annotations

import numpy as np

from spos_quant.data.arrays import Labels
from spos_quant.streams import Stream, generator

RULE = "stratified/1"
"""Version of the sampling method of `stratified`. Results computed on a subset store it to detect a changed method."""


def stratified(labels: Labels, n: int, seed: int) -> Labels:
    """Draws `n` images with the class proportions of the split, to within one image per class.

    The number of images per class follows the largest remainder method. One random permutation decides which images of
    a class are drawn and in which order. It depends only on the seed and the number of images. The subset is therefore
    independent of class numbers and file order, if the split is in content order (`data.split.in_content_order`).

    Args:
        labels: int64 [N], the classes of all images.
        n: Number of images to draw; all N are drawn if `n` is larger.
        seed: Seed of the permutation, from 0.

    Returns:
        int64 [min(n, N)], distinct indices in random order.
    """
    total = len(labels)
    permutation = generator(Stream.SUBSET, seed, total).permutation(total)
    if n >= total:
        return permutation.astype(np.int64, copy=False)
    grouped = np.argsort(labels[permutation], kind="stable")  # positions in the permutation, grouped by class
    _, starts, sizes = np.unique(labels[permutation][grouped], return_index=True, return_counts=True)
    quotas, remainders = np.divmod(sizes.astype(np.int64) * n, total)
    # Ties are broken by the order of first appearance in the permutation.
    ranked = np.lexsort((grouped[starts], -remainders))
    quotas[ranked[: n - int(quotas.sum())]] += 1
    within = np.arange(total) - np.repeat(starts, sizes)
    taken = grouped[within < np.repeat(quotas, sizes)]
    return permutation[np.sort(taken)].astype(np.int64, copy=False)
