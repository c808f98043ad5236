"""One part of a data set: labels and pictures by index, held in memory or read from files when asked for."""

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
"""A split of files whose pictures take no more than this, at the network's size, is read once."""


@runtime_checkable
class Split(Protocol):
    """Labelled pictures, numbered from 0."""

    @property
    def labels(self) -> Labels:
        """int64 [N]: the class number of each picture."""
        ...

    def __len__(self) -> int:
        """The number of pictures N."""
        ...

    def image(self, index: int) -> Pixels:
        """The picture at the network's size as validation and test take it: uint8 [H, W, C]."""
        ...

    def raw(self, index: int) -> Pixels:
        """The full picture, from which an augmentation cuts: uint8 [any, any, C]."""
        ...

    def subset(self, indices: Sequence[int] | Labels) -> Split:
        """The pictures at `indices`, in that order."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Pictures in memory, of the network's size already.

    Attributes:
        images: uint8 [N, H, W, C], values 0 to 255.
        labels: int64 [N].

    Raises:
        DataError: An array is of another type or rank, or the two are not of one length.
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
        """uint64 [N]: a checksum of each picture's label and pixels."""
        return _keys(_checksum(label, image.tobytes()) for label, image in zip(self.labels, self.images, strict=True))

    def image(self, index: int) -> Pixels:
        """The picture: a view of uint8 [H, W, C]."""
        picture: Pixels = self.images[index]
        return picture

    def raw(self, index: int) -> Pixels:
        """The same as `image`: there is no larger picture behind it."""
        return self.image(index)

    def subset(self, indices: Sequence[int] | Labels) -> ArraySplit:
        """A copy of the pictures at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return _with_keys_of(self, chosen, ArraySplit(self.images[chosen], self.labels[chosen]))


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Pictures in files, decoded when asked for; at the network's size they stay in memory where all of them may.

    Attributes:
        paths: N files.
        labels: int64 [N].
        preprocessing: Brings a picture to the network's size; its `channels` decide between grey and RGB.

    Raises:
        DataError: `labels` is of another type, rank or length; from `image` and `raw`, a file that cannot be read.
    """

    paths: tuple[str, ...]
    labels: Labels
    preprocessing: Preprocessing
    _kept: dict[int, Pixels] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the pictures: where it travels to, the files are."""
        return {**self.__dict__, "_kept": {}}

    def __post_init__(self) -> None:
        _check_labels(self.labels, len(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def content_keys(self) -> Keys:
        """uint64 [N]: a checksum of each file's label and size, and of its bytes where these two are not unique.

        So of a million photographs, whose sizes differ, few are read.

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
            raise DataError(f"cannot read the picture {error.filename}: {error.strerror}") from None
        return _keys(found)

    def image(self, index: int) -> Pixels:
        """Reads the picture at the network's size: uint8 [H, W, C].

        Raises:
            DataError: The file cannot be read; the message names it.
        """
        picture = self._kept.get(index)
        if picture is None:
            picture = self.preprocessing.from_pil(read_image(self.paths[index], self.preprocessing.channels))
            if len(self) * picture.size <= KEPT_BYTES:
                picture.flags.writeable = False
                self._kept[index] = picture
        return picture

    def raw(self, index: int) -> Pixels:
        """Reads the full picture: uint8 [any, any, C].

        Raises:
            DataError: The file cannot be read; the message names it.
        """
        channels = self.preprocessing.channels
        pixels = np.array(read_image(self.paths[index], channels), dtype=np.uint8)
        return pixels.reshape(*pixels.shape[:2], channels)

    def subset(self, indices: Sequence[int] | Labels) -> FileSplit:
        """The files at `indices`, in that order; none is read."""
        chosen = np.asarray(indices, dtype=np.int64)
        paths = tuple(self.paths[index] for index in chosen)
        return _with_keys_of(self, chosen, FileSplit(paths, self.labels[chosen], self.preprocessing))


def in_content_order(split: Split) -> Split:
    """The same pictures in an order that follows from their labels and contents alone, whatever order they came in.

    The order is that of checksums, so it tells nothing of classes: the first n pictures are of all of them. Of equal
    pictures with equal labels either may come first. A split of another kind than `ArraySplit` and `FileSplit` stays as
    it is: only its maker knows how to tell its pictures apart without drawing all of them.

    Args:
        split: Pictures in any order.

    Returns:
        The pictures in content order; the split itself where they are in it already.

    Raises:
        DataError: A picture's file cannot be read.
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
    """Hands down what is known of the contents, so that no picture is read for it twice."""
    if "content_keys" in whole.__dict__:
        part.__dict__["content_keys"] = whole.content_keys[chosen]
    return part


def _check_labels(labels: Labels, count: int) -> None:
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"labels must be int64 [N], got {labels.dtype} {list(labels.shape)}")
    if len(labels) != count:
        raise DataError(f"there are {count} images, but {len(labels)} labels")
