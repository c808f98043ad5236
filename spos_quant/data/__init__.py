"""Data sets, augmentation and preprocessing in NumPy, without torch.

`load_data` turns the text of an option (`digits`, `cifar10:ROOT`, `imagefolder:ROOT`, `fake`,
`package.module:function`) into a `DataSet`. It has three disjoint splits `train`, `search-val` and `test`, the
`Augmentation` that training and BatchNorm recalibration use, and the `Preprocessing` that is exported with a network.
`batch` makes the arrays of a training or evaluation step. Its randomness depends only on the seed, the epoch and the
image's index, so an interrupted run resumes with the same images.
"""

from spos_quant.data.augmentation import Augmentation
from spos_quant.data.batches import batch, example, order
from spos_quant.data.dataset import SPLITS, DataSet, hold_out
from spos_quant.data.loading import DatasetLoader, check_no_code, datasets, load_data
from spos_quant.data.preprocessing import Preprocessing, preprocess_files
from spos_quant.data.split import ArraySplit, FileSplit, Split, in_content_order
from spos_quant.data.subset import stratified

__all__ = [
    "SPLITS",
    "ArraySplit",
    "Augmentation",
    "DataSet",
    "DatasetLoader",
    "FileSplit",
    "Preprocessing",
    "Split",
    "batch",
    "check_no_code",
    "datasets",
    "example",
    "hold_out",
    "in_content_order",
    "load_data",
    "order",
    "preprocess_files",
    "stratified",
]
