"""`fake`: made-up pictures of any size and number of classes, for trying things out without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spos_quant.data.arrays import Floats, Labels, Pixels, Shape
from spos_quant.data.augmentation import Augmentation
from spos_quant.data.dataset import DataSet
from spos_quant.data.loading import datasets
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.data.split import ArraySplit, Split
from spos_quant.errors import DataError
from spos_quant.streams import Stream, generator

_TRAIN_PER_CLASS, _TRAIN_MOST = 50, 2000
_TEST_PER_CLASS, _TEST_MOST = 20, 500

# Side of the coarse grid that a picture is stretched from: it makes the classes' patterns smooth.
_GRID = 4
# Share of the class's pattern in a picture; the rest is a smooth pattern of the picture's own.
_CLASS_SHARE = 0.5
# Up to so much, pictures are drawn once and kept.
_MEMORY_BYTES = 1 << 25
# Greatest change of a single pixel, of 255.
_NOISE = 24
# The pictures are the same in every run; a run's seed only decides which are held out.
_SEED = 20200


@dataclass(frozen=True, eq=False)
class FakeSplit:
    """Pictures that are drawn when asked for, so that large ones need no memory.

    Attributes:
        patterns: float32 [K, 4, 4, C], values 0 to 255: the coarse pattern of each class.
        labels: int64 [N].
        numbers: int64 [N], what each picture's own part is drawn from.
        size: Height and width in pixels.
    """

    patterns: Floats
    labels: Labels
    numbers: Labels
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Pixels:
        """Draws the picture, the same at every call: uint8 [H, W, C]."""
        rng = generator(Stream.FAKE_IMAGE, _SEED, int(self.numbers[index]))
        pattern = self.patterns[self.labels[index]]
        own = rng.random(pattern.shape, dtype=np.float32) * 255
        mixed = (_CLASS_SHARE * pattern + (1 - _CLASS_SHARE) * own).astype(np.uint8)
        height, width = self.size
        coarse = Image.fromarray(mixed if mixed.shape[2] == 3 else mixed[:, :, 0])
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)
        noise = rng.integers(-_NOISE, _NOISE, smooth.shape, dtype=np.int16, endpoint=True)
        return (smooth + noise).clip(0, 255).astype(np.uint8)

    def raw(self, index: int) -> Pixels:
        """The same as `image`: there is no larger picture behind it."""
        return self.image(index)

    def subset(self, indices: Sequence[int] | Labels) -> Split:
        """The pictures at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return FakeSplit(self.patterns, self.labels[chosen], self.numbers[chosen], self.size)


@datasets.register("fake")
def load(root: str | None, *, input: Shape, classes: int, seed: int) -> DataSet:
    """Makes up a data set: a smooth pattern per class, mixed with one per picture and with noise.

    Args:
        root: None; it is in no folder.
        input: Channels (1 or 3), height and width of the pictures.
        classes: How many patterns there are.
        seed: Which training pictures are held out as search-val; the pictures do not depend on it.

    Returns:
        50 training pictures per class, at most 2,000 in all, of which a fifth is held out, and 20 test pictures per
        class, at most 500; but of every class at least two and one.

    Raises:
        DataError: A root was given, or there are neither 1 nor 3 channels.
    """
    if root is not None:
        raise DataError(f"data set 'fake' is in no folder; write fake, not fake:{root}")
    channels, height, width = input
    size = (height, width)
    preprocessing = Preprocessing(size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    rng = generator(Stream.FAKE_PATTERNS, _SEED)
    patterns = rng.random((classes, _GRID, _GRID, channels), dtype=np.float32) * 255
    train = min(_TRAIN_PER_CLASS * classes, max(_TRAIN_MOST, 2 * classes))
    test = min(_TEST_PER_CLASS * classes, max(_TEST_MOST, classes))
    numbers = np.arange(train + test, dtype=np.int64)
    everything: Split = FakeSplit(patterns, numbers % classes, numbers, size)
    if len(numbers) * channels * height * width <= _MEMORY_BYTES:
        # Drawing a small picture takes longer than all that is done to it afterwards.
        images = np.stack([everything.image(number) for number in range(len(numbers))])
        everything = ArraySplit(images, everything.labels)
    return DataSet.holding_out(
        name="fake",
        classes=tuple(f"class {number}" for number in range(classes)),
        preprocessing=preprocessing,
        augmentation=Augmentation(size=size, pad=min(size) // 8),
        train=everything.subset(numbers[:train]),
        test=everything.subset(numbers[train:]),
        seed=seed,
    )
