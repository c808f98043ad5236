"""Preprocessing: resizes, crops and normalizes an image to a network's input."""

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

# Limit in pixels; a larger size in an untrusted file would exhaust the memory.
_MAX_SIDE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """Size and normalization of a network's input images. ONNX files store it as JSON.

    Attributes:
        size: Height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: Mean of each channel over the training images, of pixel values scaled to [0, 1].
        std: Standard deviation of each channel, on the same scale.
        resize: Length in pixels to which an image's shorter side is resized before a center crop of `size`. If None,
            an image of another size is resized to `size`, without preserving its aspect ratio.

    Raises:
        DataError: A size is not positive or too large, `channels` is neither 1 nor 3, `mean` or `std` is not one finite
            number (`std` above 0) per channel, or `resize` is smaller than `size` or too large.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1 or max(self.size) > _MAX_SIDE:
            expected = f"a height and a width of 1 to {_MAX_SIDE}"
            raise DataError(f"preprocessing: size must be {expected}, got {list(self.size)}")
        if self.channels not in MODES:
            raise DataError(f"preprocessing: channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not all(math.isfinite(value) for value in values):
                expected = f"{self.channels} finite number(s), one per channel"
                raise DataError(f"preprocessing: {name} must be {expected}, got {list(values)}")
        if min(self.std) <= 0:
            raise DataError(f"preprocessing: std must be above 0, got {list(self.std)}")
        if self.resize is not None and self.resize > 2 * _MAX_SIDE:
            raise DataError(f"preprocessing: resize must be at most {2 * _MAX_SIDE}, got {self.resize}")
        if self.resize is not None and self.resize < max(self.size):
            raise DataError(f"preprocessing: resize {self.resize} is smaller than the crop {list(self.size)}")

    @property
    def input(self) -> Shape:
        """Channels, height and width of one input image."""
        return (self.channels, *self.size)

    def from_pil(self, image: Image.Image) -> Pixels:
        """Brings an image to the network's input size, as in validation, test and deployment.

        Args:
            image: An image of any size and of any mode but floating point.

        Returns:
            uint8 [H, W, C], values 0 to 255.

        Raises:
            DataError: The image's mode does not fit in 8 bits.
        """
        image = to_mode(image, self.channels)
        height, width = self.size
        if self.resize is not None:
            image = _centre(_shorter_side(image, self.resize), height, width)
        elif image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(image, dtype=np.uint8).reshape(height, width, self.channels)

    def normalise(self, pixels: Pixels) -> Floats:
        """Normalizes pixels to mean 0 and standard deviation 1 over the training images: `(pixels / 255 - mean) / std`.

        Args:
            pixels: uint8 [..., H, W, C], values 0 to 255.

        Returns:
            float32 [..., C, H, W], contiguous.

        Raises:
            DataError: The array is not uint8, or the length of its last axis is not `channels`.
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
        """The settings as a JSON-compatible mapping, the inverse of `from_dict`."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
        }

    @classmethod
    def from_dict(cls, values: object) -> Preprocessing:
        """Parses the mapping that `to_dict` returns.

        Args:
            values: A mapping with exactly the keys `size`, `channels`, `mean`, `std` and `resize`.

        Returns:
            The settings.

        Raises:
            DataError: A key is unknown or missing, or a value has another type or is out of range.
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
    """Reads image files as input of a network.

    Args:
        paths: n image files.
        preprocessing: The preprocessing of the network.

    Returns:
        float32 [n, C, H, W], normalized.

    Raises:
        DataError: A file is missing or cannot be decoded; the message names it.
    """
    channels = preprocessing.channels
    pixels = [preprocessing.from_pil(read_image(path, channels)) for path in paths]
    if not pixels:
        return np.zeros((0, *preprocessing.input), dtype=np.float32)
    return preprocessing.normalise(np.stack(pixels))


def _shorter_side(image: Image.Image, length: int) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    size = (length * width // shorter, length * height // shorter)
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    left = round((image.width - width) / 2)
    top = round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _sequence(value: object, name: str) -> list[object]:
    if not isinstance(value, list | tuple):
        raise DataError(f"preprocessing: {name} must be a list, got {value!r}")
    return list(value)


def _whole(value: object, name: str) -> int:
    # bool is a subclass of int, but `"channels": true` is a mistake.
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
