"""`digits`: 1,797 handwritten digits of 8 x 8 pixels that scikit-learn includes. No download is needed."""

from __future__ import annotations

import numpy as np

from spos_quant.data.arrays import Shape
from spos_quant.data.augmentation import Augmentation
from spos_quant.data.dataset import DataSet, hold_out
from spos_quant.data.loading import datasets
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.data.split import ArraySplit, in_content_order
from spos_quant.errors import DataError

# Computed over the 1,438 images that are not in the test split.
MEAN = (0.30524,)
STD = (0.376025,)

# The test split is the same for every seed, so that runs of different seeds can be compared.
_TEST_SEED = 0
_TEST_SHARE = 0.2


@datasets.register("digits")
def load(root: str | None, *, input: Shape, classes: int, seed: int) -> DataSet:
    """Loads the digits.

    Args:
        root: Must be None; the data set is not in a folder.
        input: 1 x 8 x 8, which the caller checks.
        classes: 10, which the caller checks.
        seed: Selects the training images that are held out as search-val.

    Returns:
        About 1,150, 290 and 360 images. Augmentation: crops with padding 1, no flips, because digits are not symmetric.

    Raises:
        DataError: `root` was given.
    """
    del input, classes
    if root is not None:
        raise DataError(f"data set 'digits' is in no folder; write digits, not digits:{root}")
    # Imported here because it takes a second and imports scipy.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # load_digits has values from 0 to 16.
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, :, :, None]
    everything = in_content_order(ArraySplit(images, bunch.target.astype(np.int64)))
    rest, test = hold_out(everything.labels, seed=_TEST_SEED, fraction=_TEST_SHARE)
    return DataSet.holding_out(
        name="digits",
        classes=tuple("0123456789"),
        preprocessing=Preprocessing(size=(8, 8), channels=1, mean=MEAN, std=STD),
        augmentation=Augmentation(size=(8, 8), pad=1),
        train=everything.subset(rest),
        test=everything.subset(test),
        seed=seed,
    )
