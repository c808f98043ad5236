"""Batches as tensors. A batch depends on (seed, step) alone, so a checkpoint needs no other state of the data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spos_quant.data import DataSet, batch, order, stratified
from spos_quant.errors import ConfigError
from spos_quant.interrupt import reset_in_child

Batch = tuple[Tensor, Tensor]
"""Images `[n, C, H, W]` float32 and labels `[n]` int64."""

_KEEP_BYTES = 1 << 30


class TrainingBatches(Dataset[Batch]):
    """The batch of every training step, indexed by step number.

    An epoch visits every image at most once, in its own order, and drops the last images that do not fill a batch. Each
    of several ranks takes an equal share of every batch.

    Raises:
        ConfigError: the batch size is not divisible by the number of ranks.
    """

    def __init__(self, data: DataSet, batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.data = data
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.batch_size = min(batch_size, len(data.train))
        if self.batch_size % world_size:
            raise ConfigError(
                f"a batch of {self.batch_size} images cannot be shared evenly by {world_size} ranks; set batch_size to "
                f"a multiple of {world_size}"
            )
        self.per_epoch = len(data.train) // self.batch_size
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.per_epoch

    def __getitem__(self, step: int) -> Batch:
        epoch, index = divmod(step, self.per_epoch)
        if self._order[0] != epoch:  # permuting a million images at every step is too slow
            self._order = (epoch, order(len(self.data.train), self.seed, epoch))
        chosen = self._order[1][index * self.batch_size : (index + 1) * self.batch_size]
        mine = chosen[self.rank :: self.world_size]
        x, y = batch(self.data.train, mine, self.data.preprocessing, self.data.augmentation, self.seed, epoch)
        return torch.from_numpy(x), torch.from_numpy(y)


def loader(steps: TrainingBatches, first: int, last: int, workers: int) -> Iterator[Batch]:
    """The batches of steps `first` to `last - 1`, prepared by `workers` processes (0: by this process)."""
    made: DataLoader[Batch] = DataLoader(
        steps, batch_size=None, sampler=range(first, last), num_workers=workers, worker_init_fn=reset_in_child
    )
    return iter(made)


class FixedBatches:
    """Batches that are the same in every iteration, kept in memory if they are small.

    A subset of a split is stratified by class (`data.subset`).

    Args:
        data: The data set.
        split: `train` (augmented as in training, as recalibration requires), `search-val` or `test` (not augmented).
        images: Number of images; None takes the whole split.
        batch_size: Images per batch.
        seed: Determines the subset and the augmentation of `train`.
    """

    def __init__(self, data: DataSet, split: str, *, images: int | None, batch_size: int, seed: int) -> None:
        self.data, self.split, self.batch_size, self.seed = data, split, batch_size, seed
        available = len(data.split(split))
        self.images = available if images is None else min(images, available)
        self._drawn = images is not None
        self._kept: list[Batch] | None = None

    def __len__(self) -> int:
        return self.images

    @property
    def count(self) -> int:
        """Number of batches."""
        return -(-self.images // self.batch_size)

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """`[images]` indices into the split, in the order of the batches."""
        labels = self.data.split(self.split).labels
        return stratified(labels, self.images, self.seed) if self._drawn else np.arange(len(labels))

    def _make(self) -> Iterator[Batch]:
        source, chosen = self.data.split(self.split), self.indices
        augmentation = self.data.augmentation if self.split == "train" else None
        for start in range(0, self.images, self.batch_size):
            part = chosen[start : min(start + self.batch_size, self.images)]
            x, y = batch(source, part, self.data.preprocessing, augmentation, self.seed)
            yield torch.from_numpy(x), torch.from_numpy(y)

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            return iter(self._kept)
        c, h, w = self.data.preprocessing.input
        if self.images * c * h * w * 4 > _KEEP_BYTES:
            return self._make()
        self._kept = list(self._make())
        return iter(self._kept)
