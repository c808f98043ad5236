"""`cifar10[:ROOT]`: the binary version of CIFAR-10, from a folder, an archive or its website."""

from __future__ import annotations

import hashlib
import http.client
import logging
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import numpy as np

from spos_quant.data.arrays import Shape
from spos_quant.data.augmentation import Augmentation
from spos_quant.data.dataset import DataSet
from spos_quant.data.loading import datasets
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.data.split import ArraySplit
from spos_quant.errors import DataError
from spos_quant.run_dir import cache_dir

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)
_IMAGE_BYTES = 3 * 32 * 32
_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@datasets.register("cifar10")
def load(root: str | None, *, input: Shape, classes: int, seed: int) -> DataSet:
    """Loads CIFAR-10 into memory.

    Args:
        root: The folder `cifar-10-batches-bin`, or a folder that contains it or `cifar-10-binary.tar.gz`. None uses the
            cache (`~/.cache/spos_quant/cifar10`, or under XDG_CACHE_HOME), to which the archive is downloaded once.
        input: 3 x 32 x 32, which the caller checks.
        classes: 10, which the caller checks.
        seed: Selects the training images that are held out as search-val.

    Returns:
        40,000, 10,000 and 10,000 images. Augmentation: crops with padding 4 and horizontal flips.

    Raises:
        DataError: The files are missing, damaged or cannot be downloaded.
    """
    del input, classes
    folder = _cached_folder() if root is None else _folder(Path(root).expanduser())
    return DataSet.holding_out(
        name="cifar10",
        classes=CLASSES,
        preprocessing=Preprocessing(
            size=(32, 32), channels=3, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
        ),
        augmentation=Augmentation(size=(32, 32), pad=4, flip=True),
        train=_read(folder, _TRAIN),
        test=_read(folder, _TEST),
        seed=seed,
    )


def _cached_folder() -> Path:
    root = cache_dir("cifar10")
    if not _is_complete(root / FOLDER) and not (root / ARCHIVE).is_file():
        _download(root / ARCHIVE)
    return _folder(root)


def _folder(root: Path) -> Path:
    """The folder of .bin files, which is `root` or in it. Unpacks the archive if necessary."""
    if not root.is_dir():
        raise DataError(f"data set 'cifar10': no folder {root}; {_by_hand(root)}")
    for folder in (root / FOLDER, root):
        if _is_complete(folder):
            return folder
    if (root / ARCHIVE).is_file():
        _unpack(root / ARCHIVE, root / FOLDER)
        return root / FOLDER
    if (root / "cifar-10-batches-py").is_dir() or (root / "cifar-10-python.tar.gz").is_file():
        raise DataError(f"data set 'cifar10': {root} holds the Python version, which is not read; {_by_hand(root)}")
    partial = [name for name in (*_TRAIN, *_TEST) if not (root / FOLDER / name).is_file()]
    what = f"{FOLDER} lacks {', '.join(partial)}" if (root / FOLDER).is_dir() else f"neither {FOLDER} nor {ARCHIVE}"
    raise DataError(f"data set 'cifar10': {what} in {root}; {_by_hand(root)}")


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (*_TRAIN, *_TEST))


def _by_hand(folder: Path) -> str:
    return f"fetch {URL} on any machine and place it as {folder / ARCHIVE}, or name its folder as cifar10:ROOT"


def _download(target: Path) -> None:
    """Downloads the archive to `target`, which is created only when the download is complete."""
    _log.info("downloading %s (about 170 MB) to %s", URL, target)
    part: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file:
            part = file.name
            with urllib.request.urlopen(URL, timeout=_TIMEOUT_S) as response:
                shutil.copyfileobj(response, file, _CHUNK_BYTES)
        _check_md5(Path(part), "the download was cut off or altered; try again, or " + _by_hand(target.parent))
        Path(part).replace(target)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"data set 'cifar10': cannot download it ({error}); {_by_hand(target.parent)}") from error
    finally:
        if part is not None:
            Path(part).unlink(missing_ok=True)


def _check_md5(archive: Path, advice: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with archive.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != MD5:
        got = digest.hexdigest()
        raise DataError(f"data set 'cifar10': {archive} has the MD5 sum {got}, expected {MD5}; {advice}")


def _unpack(archive: Path, folder: Path) -> None:
    """Extracts the six known files from the archive. Other members are never written to disk."""
    _check_md5(archive, f"remove it and fetch {URL} again")
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpacking-") as scratch:
            with tarfile.open(archive, "r:gz") as tar:
                for name in (*_TRAIN, *_TEST):
                    source = tar.extractfile(f"{FOLDER}/{name}")
                    if source is None:
                        raise DataError(f"data set 'cifar10': {FOLDER}/{name} in {archive} is not a file")
                    with source, Path(scratch, name).open("wb") as file:
                        shutil.copyfileobj(source, file, _CHUNK_BYTES)
            # Each file is replaced atomically, so that several processes can unpack at the same time.
            folder.mkdir(exist_ok=True)
            for name in (*_TRAIN, *_TEST):
                Path(scratch, name).replace(folder / name)
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise DataError(f"data set 'cifar10': cannot unpack {archive} beside itself: {error}") from error


def _read(folder: Path, names: tuple[str, ...]) -> ArraySplit:
    """Reads records of one label byte and three planes (red, green, blue) of 32 x 32 bytes."""
    images, labels = [], []
    for name in names:
        path = folder / name
        try:
            values = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise DataError(f"data set 'cifar10': cannot read {path}: {error}") from error
        if not len(values) or len(values) % (1 + _IMAGE_BYTES):
            raise DataError(
                f"data set 'cifar10': {path} has {len(values)} bytes, which is not a number of images of "
                f"{1 + _IMAGE_BYTES} bytes each; it was cut off or is another file, so fetch it again"
            )
        records = values.reshape(-1, 1 + _IMAGE_BYTES)
        if records[:, 0].max() >= len(CLASSES):
            raise DataError(f"data set 'cifar10': {path} has the label {records[:, 0].max()}, past 9; fetch it again")
        labels.append(records[:, 0].astype(np.int64))
        images.append(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ArraySplit(np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels))
