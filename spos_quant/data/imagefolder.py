"""`imagefolder:ROOT`: image files in one folder per class, in `train/` and, for the test split, `test/` or `val/`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from spos_quant.data.arrays import Labels, Shape
from spos_quant.data.augmentation import Augmentation
from spos_quant.data.dataset import DataSet, hold_out
from spos_quant.data.loading import datasets
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.data.split import FileSplit, Split, in_content_order
from spos_quant.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")
"""Files with other suffixes are ignored; the comparison ignores case."""

# Up to this height, training uses padded crops as for CIFAR, because small images usually show the whole object.
_SMALL = 64
# From this height on, evaluation uses a center crop as for ImageNet: 224 of 256 pixels.
_MIN_CENTER_CROP = 96

_STATISTICS = {
    1: ((0.5,), (0.5,)),
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@datasets.register("imagefolder")
def load(root: str | None, *, input: Shape, classes: int, seed: int) -> DataSet:
    """Lists the image files of a folder. Images are decoded on demand.

    Search-val is always held out of `train/`. The test split is `test/`, else `val/`, else a fifth of `train/` that is
    also held out by the seed.

    Args:
        root: The folder that contains `train/`.
        input: Channels (1 or 3), height and width of the network's input.
        classes: The number of class folders.
        seed: Selects the training images that are held out.

    Returns:
        The data set; class numbers follow the sorted folder names.

    Raises:
        DataError: A folder is missing or empty, or the class folders are not as expected.
    """
    if root is None:
        raise DataError("data set 'imagefolder' needs its folder: imagefolder:ROOT, where ROOT/train has class folders")
    top = Path(root).expanduser()
    preprocessing, augmentation = _settings(input)
    if not top.is_dir():
        raise DataError(f"data set 'imagefolder': no folder {top}")
    if not (top / "train").is_dir():
        raise DataError(f"data set 'imagefolder': no folder {top / 'train'}; expected a folder per class in it")
    names = _class_folders(top / "train")
    if len(names) != classes:
        raise DataError(
            f"data set 'imagefolder': {top / 'train'} has {len(names)} class folders ({_listed(names)}), "
            f"but the search space has {classes} classes"
        )
    train: Split = _split(top / "train", names, preprocessing)
    measured = next((top / part for part in ("test", "val") if (top / part).is_dir()), None)
    if measured is None:
        train = in_content_order(train)
        rest, chosen = hold_out(train.labels, seed=seed)
        train, test = train.subset(rest), train.subset(chosen)
    else:
        _check_same(_class_folders(measured), names, measured)
        test = _split(measured, names, preprocessing)
    return DataSet.holding_out(
        name=f"imagefolder:{root}",
        classes=names,
        preprocessing=preprocessing,
        augmentation=augmentation,
        train=train,
        test=test,
        seed=seed,
    )


def _settings(input: Shape) -> tuple[Preprocessing, Augmentation]:
    channels, height, width = input
    if channels not in _STATISTICS:
        raise DataError(f"data set 'imagefolder' gives 1 or 3 channels, but the search space takes {channels}")
    mean, std = _STATISTICS[channels]
    resize = round(max(height, width) * 256 / 224) if height >= _MIN_CENTER_CROP else None
    preprocessing = Preprocessing(size=(height, width), channels=channels, mean=mean, std=std, resize=resize)
    if height <= _SMALL:
        pad = min(height // 8, width - 1)
        return preprocessing, Augmentation(size=(height, width), pad=pad, flip=True)
    return preprocessing, Augmentation(size=(height, width), flip=True, scale=(0.08, 1.0), jitter=0.4)


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"data set 'imagefolder': {folder} is empty; expected a folder per class in it")
    return tuple(names)


def _check_same(found: tuple[str, ...], expected: tuple[str, ...], folder: Path) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing or extra:
        parts = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has {_listed(extra)} more"] * bool(extra)
        raise DataError(f"data set 'imagefolder': {folder} must have the classes of train/, but {' and '.join(parts)}")


def _split(folder: Path, names: tuple[str, ...], preprocessing: Preprocessing) -> FileSplit:
    paths: list[str] = []
    labels: list[Labels] = []
    for number, name in enumerate(names):
        files = _image_files(folder / name)
        if not files:
            raise DataError(
                f"data set 'imagefolder': class folder {folder / name} has no images (files {' '.join(SUFFIXES)})"
            )
        paths += files
        labels.append(np.full(len(files), number, dtype=np.int64))
    return FileSplit(tuple(paths), np.concatenate(labels), preprocessing)


def _image_files(folder: Path) -> list[str]:
    """The sorted image files in a class folder, at any depth. Names that start with a dot are ignored."""
    found = []
    for where, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                found.append(str(Path(where, name)))
    return sorted(found)


def _listed(names: list[str] | tuple[str, ...], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown}, ..." if len(names) > limit else shown
