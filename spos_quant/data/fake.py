"""`fake`: synthetic images of any size and number of classes, for tests without data."""

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

_TRAIN_PER_CLASS, _TRAIN_MAX = 50, 2000
_TEST_PER_CLASS, _TEST_MAX = 20, 500

# Side of the coarse grid that is upsampled to an image, which makes patterns smooth.
_GRID = 4
# Weight of the class's pattern in an image; the rest is a random smooth pattern per image.
_CLASS_SHARE = 0.5
# Images are generated once and kept in memory if they take at most this many bytes.
_MEMORY_BYTES = 1 << 25
# Maximum absolute noise per pixel, on the scale 0 to 255.
_NOISE = 24
# The images are the same in every run; a run's seed only selects those that are held out.
_SEED = 20200


@dataclass(frozen=True, eq=False)
class FakeSplit:
    """Images that are generated on demand, so that large ones need no memory.

    Attributes:
        patterns: float32 [K, 4, 4, C], values 0 to 255: the coarse pattern of each class.
        labels: int64 [N].
        numbers: int64 [N], the random stream of each image.
        size: Height and width in pixels.
    """

    patterns: Floats
    labels: Labels
    numbers: Labels
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Pixels:
        """Generates the image, the same at every call: uint8 [H, W, C]."""
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
        """The same as `image`; there is no larger original."""
        return self.image(index)

    def subset(self, indices: Sequence[int] | Labels) -> Split:
        """The images at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return FakeSplit(self.patterns, self.labels[chosen], self.numbers[chosen], self.size)


@datasets.register("fake")
def load(root: str | None, *, input: Shape, classes: int, seed: int) -> DataSet:
    """Generates a data set: each image mixes the smooth pattern of its class, a random smooth pattern and noise.

    Args:
        root: Must be None; the data set is not in a folder.
        input: Channels (1 or 3), height and width of the images.
        classes: Number of classes.
        seed: Selects the training images that are held out as search-val; the images do not depend on it.

    Returns:
        50 training images per class, at most 2,000 in total, a fifth of which is held out, and 20 test images per
        class, at most 500 in total. Each class has at least two training images and one test image.

    Raises:
        DataError: `root` was given, or the number of channels is neither 1 nor 3.
    """
    if root is not None:
        raise DataError(f"data set 'fake' is in no folder; write fake, not fake:{root}")
    channels, height, width = input
    size = (height, width)
    preprocessing = Preprocessing(size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    rng = generator(Stream.FAKE_PATTERNS, _SEED)
    patterns = rng.random((classes, _GRID, _GRID, channels), dtype=np.float32) * 255
    train = min(_TRAIN_PER_CLASS * classes, max(_TRAIN_MAX, 2 * classes))
    test = min(_TEST_PER_CLASS * classes, max(_TEST_MAX, classes))
    numbers = np.arange(train + test, dtype=np.int64)
    everything: Split = FakeSplit(patterns, numbers % classes, numbers, size)
    if len(numbers) * channels * height * width <= _MEMORY_BYTES:
        # Generating a small image takes longer than augmenting and normalizing it.
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
