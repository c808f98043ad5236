"""One part of a data set: labels and pictures by index, held in memory or read from files when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from spos_quant.data.arrays import Labels, Pixels
from spos_quant.data.images import read_image
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.errors import DataError

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
        return ArraySplit(self.images[chosen], self.labels[chosen])


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
        return FileSplit(paths, self.labels[chosen], self.preprocessing)


def _check_labels(labels: Labels, count: int) -> None:
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"labels must be int64 [N], got {labels.dtype} {list(labels.shape)}")
    if len(labels) != count:
        raise DataError(f"there are {count} images, but {len(labels)} labels")
