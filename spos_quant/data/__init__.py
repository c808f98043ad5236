"""Pictures and labels, in numpy alone: named data sets and their three splits, one augmentation, one preprocessing.

`load_data` turns what a person typed (`digits`, `cifar10:ROOT`, `imagefolder:ROOT`, `fake`, `package.module:function`)
into a `DataSet`: the splits `train`, `search-val` and `test`, which share no picture, the `Augmentation` that training
and the recalibration of batch-norm statistics both use, and the `Preprocessing` that goes with a network wherever it is
exported to. `batch` makes the arrays of a step from them; its randomness is a function of the seed, the epoch and the
picture's index alone, so a run that was cut off goes on with the very same pictures.
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
