"""How a picture becomes the input of a network: the part of a model that is not in its weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

from spos_quant.data.arrays import Floats, Pixels, Shape
from spos_quant.data.images import MODES, read_image, to_mode
from spos_quant.errors import DataError, near

# Per side; a file that asks for more would take all memory.
_MOST_PIXELS = 4096


@dataclass(frozen=True)
class Preprocessing:
    """Size and scale of the pictures that a network takes; it travels inside ONNX files as JSON.

    Attributes:
        size: Height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: Mean of each channel over the training pictures, of pixel values scaled to [0, 1].
        std: Standard deviation of each channel, on the same scale.
        resize: Length in pixels that a picture's shorter side gets before the centre of `size` is cut out. Where it is
            None, a picture of another size is stretched to `size`.

    Raises:
        DataError: A size is not positive, `channels` is neither 1 nor 3, `mean` and `std` are not of one finite number
            (`std` above 0) per channel, or `resize` is smaller than `size`.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1 or max(self.size) > _MOST_PIXELS:
            expected = f"a height and a width of 1 to {_MOST_PIXELS}"
            raise DataError(f"preprocessing: size must be {expected}, got {list(self.size)}")
        if self.channels not in MODES:
            raise DataError(f"preprocessing: channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not all(math.isfinite(value) for value in values):
                expected = f"{self.channels} finite number(s), one per channel"
                raise DataError(f"preprocessing: {name} must be {expected}, got {list(values)}")
        if min(self.std) <= 0:
            raise DataError(f"preprocessing: std must be above 0, got {list(self.std)}")
        if self.resize is not None and self.resize > 2 * _MOST_PIXELS:
            raise DataError(f"preprocessing: resize must be at most {2 * _MOST_PIXELS}, got {self.resize}")
        if self.resize is not None and self.resize < max(self.size):
            raise DataError(f"preprocessing: resize {self.resize} is smaller than the crop {list(self.size)}")

    @property
    def input(self) -> Shape:
        """Channels, height and width of one picture as the network takes it."""
        return (self.channels, *self.size)

    def from_pil(self, image: Image.Image) -> Pixels:
        """Brings a picture to the network's size, the way validation, test and deployment do.

        Args:
            image: A picture of any size and of any mode but floating point.

        Returns:
            uint8 [H, W, C], values 0 to 255.

        Raises:
            DataError: The picture's mode does not fit in 8 bits.
        """
        picture = to_mode(image, self.channels)
        height, width = self.size
        if self.resize is not None:
            picture = _centre(_shorter_side(picture, self.resize), height, width)
        elif picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(picture, dtype=np.uint8).reshape(height, width, self.channels)

    def normalise(self, pixels: Pixels) -> Floats:
        """Scales pixels to mean 0 and deviation 1 over the training pictures: `(pixels / 255 - mean) / std`.

        Args:
            pixels: uint8 [..., H, W, C], values 0 to 255.

        Returns:
            float32 [..., C, H, W], contiguous.

        Raises:
            DataError: The array is not uint8 or its last axis is not `channels` long.
        """
        if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != self.channels:
            raise DataError(
                f"preprocessing takes uint8 [..., height, width, {self.channels}], "
                f"got {pixels.dtype} {list(pixels.shape)}"
            )
        std = np.asarray(self.std, dtype=np.float64)
        scale = (1 / (255 * std)).astype(np.float32)[:, None, None]
        shift = (-np.asarray(self.mean) / std).astype(np.float32)[:, None, None]
        first = np.moveaxis(pixels, -1, -3)
        out = np.empty(first.shape, dtype=np.float32)
        np.multiply(first, scale, out=out)
        out += shift
        return out

    def to_dict(self) -> dict[str, object]:
        """The settings as JSON holds them: `from_dict` reads them back."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
        }

    @classmethod
    def from_dict(cls, values: object) -> Preprocessing:
        """Reads what `to_dict` wrote.

        Args:
            values: A mapping with exactly the keys `size`, `channels`, `mean`, `std` and `resize`.

        Returns:
            The settings.

        Raises:
            DataError: A key is unknown or missing, or a value is of another type or out of range.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise DataError(f"preprocessing must be a mapping of {', '.join(names)}, got {type(values).__name__}")
        for key in values:
            if key not in names:
                raise DataError(f"preprocessing: unknown key {key!r}{near(key, names)}")
        if missing := [name for name in names if name not in values]:
            raise DataError(f"preprocessing lacks the key(s) {', '.join(missing)}")
        size = [_whole(side, "size") for side in _sequence(values["size"], "size")]
        if len(size) != 2:
            raise DataError(f"preprocessing: size must be a height and a width, got {size}")
        return cls(
            size=(size[0], size[1]),
            channels=_whole(values["channels"], "channels"),
            mean=tuple(_number(value, "mean") for value in _sequence(values["mean"], "mean")),
            std=tuple(_number(value, "std") for value in _sequence(values["std"], "std")),
            resize=None if values["resize"] is None else _whole(values["resize"], "resize"),
        )


def preprocess_files(paths: Iterable[str | os.PathLike[str]], preprocessing: Preprocessing) -> Floats:
    """Reads picture files as a network takes them.

    Args:
        paths: n picture files.
        preprocessing: The network's own.

    Returns:
        float32 [n, C, H, W], normalised.

    Raises:
        DataError: A file is missing or cannot be decoded; the message names it.
    """
    channels = preprocessing.channels
    pixels = [preprocessing.from_pil(read_image(path, channels)) for path in paths]
    if not pixels:
        return np.zeros((0, *preprocessing.input), dtype=np.float32)
    return preprocessing.normalise(np.stack(pixels))


def _shorter_side(picture: Image.Image, length: int) -> Image.Image:
    width, height = picture.size
    shorter = min(width, height)
    size = (length * width // shorter, length * height // shorter)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)


def _centre(picture: Image.Image, height: int, width: int) -> Image.Image:
    left = round((picture.width - width) / 2)
    top = round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def _sequence(value: object, name: str) -> list[object]:
    if not isinstance(value, list | tuple):
        raise DataError(f"preprocessing: {name} must be a list, got {value!r}")
    return list(value)


def _whole(value: object, name: str) -> int:
    # bool is an int to Python, but `"channels": true` is a mistake.
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"preprocessing: {name} must be a whole number, got {value!r}")
    return value


def _number(value: object, name: str) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except OverflowError:  # an integer of hundreds of digits
        pass
    raise DataError(f"preprocessing: {name} must be a number, got {value!r}")
