"""Splits of a data set: labels and images by index, in memory or read from files on demand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from spos_quant.data.arrays import Labels, Pixels
from spos_quant.data.images import read_image
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.errors import DataError

Keys = npt.NDArray[np.uint64]
S = TypeVar("S", "ArraySplit", "FileSplit")

KEPT_BYTES = 1 << 29
"""A `FileSplit` caches its images if all of them, at input size, take at most this many bytes."""


@runtime_checkable
class Split(Protocol):
    """Labelled images, indexed from 0."""

    @property
    def labels(self) -> Labels:
        """int64 [N]: the class number of each image."""
        ...

    def __len__(self) -> int:
        """The number of images N."""
        ...

    def image(self, index: int) -> Pixels:
        """The image at the network's input size, without augmentation: uint8 [H, W, C]."""
        ...

    def raw(self, index: int) -> Pixels:
        """The full-size image, which an augmentation crops: uint8 [any, any, C]."""
        ...

    def subset(self, indices: Sequence[int] | Labels) -> Split:
        """The images at `indices`, in that order."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Images in memory, at the network's input size.

    Attributes:
        images: uint8 [N, H, W, C], values 0 to 255.
        labels: int64 [N].

    Raises:
        DataError: An array has another dtype or rank, or the lengths differ.
    """

    images: Pixels
    labels: Labels

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            got = f"{self.images.dtype} {list(self.images.shape)}"
            raise DataError(f"images must be uint8 [N, height, width, channels], got {got}")
        _check_labels(self.labels, len(self.images))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def content_keys(self) -> Keys:
        """uint64 [N]: a checksum of each image's label and pixels."""
        return _keys(_checksum(label, image.tobytes()) for label, image in zip(self.labels, self.images, strict=True))

    def image(self, index: int) -> Pixels:
        """The image, as a view: uint8 [H, W, C]."""
        image: Pixels = self.images[index]
        return image

    def raw(self, index: int) -> Pixels:
        """The same as `image`; there is no larger original."""
        return self.image(index)

    def subset(self, indices: Sequence[int] | Labels) -> ArraySplit:
        """A copy of the images at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return _with_keys_of(self, chosen, ArraySplit(self.images[chosen], self.labels[chosen]))


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Images in files, decoded on demand. Images at input size are cached if all of them fit in `KEPT_BYTES`.

    Attributes:
        paths: N files.
        labels: int64 [N].
        preprocessing: Brings an image to the network's input size; its `channels` decide between grey and RGB.

    Raises:
        DataError: `labels` has another dtype, rank or length. `image` and `raw` raise it if a file cannot be read.
    """

    paths: tuple[str, ...]
    labels: Labels
    preprocessing: Preprocessing
    _cache: dict[int, Pixels] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Excludes the cached images from copies and pickles; they are read from the files again."""
        return {**self.__dict__, "_cache": {}}

    def __post_init__(self) -> None:
        _check_labels(self.labels, len(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def content_keys(self) -> Keys:
        """uint64 [N]: a checksum of each file's label and size, and of its bytes if label and size are not unique.

        Most files therefore need not be read.

        Raises:
            DataError: A file cannot be read; the message names it.
        """
        try:
            sizes = [Path(path).stat().st_size for path in self.paths]
            coarse = list(zip(self.labels.tolist(), sizes, strict=True))
            counts = Counter(coarse)
            found = []
            for path, key in zip(self.paths, coarse, strict=True):
                content = Path(path).read_bytes() if counts[key] > 1 else b""
                found.append(_checksum(key[0], str(key[1]).encode(), content))
        except OSError as error:
            raise DataError(f"cannot read the image {error.filename}: {error.strerror}") from None
        return _keys(found)

    def image(self, index: int) -> Pixels:
        """Reads the image at the network's input size: uint8 [H, W, C].

        Raises:
            DataError: The file cannot be read; the message names it.
        """
        image = self._cache.get(index)
        if image is None:
            image = self.preprocessing.from_pil(read_image(self.paths[index], self.preprocessing.channels))
            if len(self) * image.size <= KEPT_BYTES:
                image.flags.writeable = False
                self._cache[index] = image
        return image

    def raw(self, index: int) -> Pixels:
        """Reads the full-size image: uint8 [any, any, C].

        Raises:
            DataError: The file cannot be read; the message names it.
        """
        channels = self.preprocessing.channels
        pixels = np.array(read_image(self.paths[index], channels), dtype=np.uint8)
        return pixels.reshape(*pixels.shape[:2], channels)

    def subset(self, indices: Sequence[int] | Labels) -> FileSplit:
        """The files at `indices`, in that order, without reading them."""
        chosen = np.asarray(indices, dtype=np.int64)
        paths = tuple(self.paths[index] for index in chosen)
        return _with_keys_of(self, chosen, FileSplit(paths, self.labels[chosen], self.preprocessing))


def in_content_order(split: Split) -> Split:
    """Sorts images by a checksum of label and content, so that their order does not depend on the original order.

    Checksum order is unrelated to class order, so the first n images mix all classes. Equal images with equal labels
    may be in any order. Splits other than `ArraySplit` and `FileSplit` are returned unchanged, because checksums of
    their contents would require loading all their images.

    Args:
        split: Images in any order.

    Returns:
        The images in content order; `split` itself if it is already sorted.

    Raises:
        DataError: An image's file cannot be read.
    """
    if not isinstance(split, ArraySplit | FileSplit):
        return split
    keys = split.content_keys
    return split if (keys[:-1] <= keys[1:]).all() else split.subset(np.argsort(keys, kind="stable"))


def _checksum(label: int | np.int64, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(str(label).encode(), digest_size=8)
    for part in parts:
        digest.update(b"\0")
        digest.update(part)
    return digest.digest()


def _keys(checksums: Iterable[bytes]) -> Keys:
    return np.frombuffer(b"".join(checksums), dtype="<u8")


def _with_keys_of(whole: ArraySplit | FileSplit, chosen: Labels, part: S) -> S:
    """Copies known checksums from a split to its subset, so that files are not read again."""
    if "content_keys" in whole.__dict__:
        part.__dict__["content_keys"] = whole.content_keys[chosen]
    return part


def _check_labels(labels: Labels, count: int) -> None:
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"labels must be int64 [N], got {labels.dtype} {list(labels.shape)}")
    if len(labels) != count:
        raise DataError(f"there are {count} images, but {len(labels)} labels")
