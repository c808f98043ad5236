"""Random crops, flips and color jitter. Training and BatchNorm recalibration use the same object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spos_quant.data.arrays import Floats, Pixels
from spos_quant.errors import ConfigError

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of an image's uint8 pixels, before normalization.

    Without `scale`, the image at the network's input size is zero-padded by `pad` pixels on each side and randomly
    cropped to the input size. With `scale`, a crop of random area and aspect ratio of the full-size image is resized to
    the input size. In both cases, a random horizontal flip and color jitter follow.

    Attributes:
        size: Input height and width of the network in pixels.
        pad: Width of the zero padding in pixels; it must be less than height and width.
        flip: Whether images are flipped horizontally with probability 0.5.
        scale: Minimum and maximum share of the full-size image's area to crop, within (0, 1]; None uses `pad`.
        ratio: Minimum and maximum aspect ratio (width / height) of that crop.
        jitter: Brightness, contrast and saturation are each multiplied by a factor from [1 - jitter, 1 + jitter];
            within [0, 1], and 0 disables it.

    Raises:
        ConfigError: A value is out of its range, or both `pad` and `scale` are given.
    """

    size: tuple[int, int]
    pad: int = 0
    flip: bool = False
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ConfigError(f"augmentation: size must be a positive height and width, got {list(self.size)}")
        if not 0 <= self.pad < min(self.size):
            raise ConfigError(f"augmentation: pad must be from 0 to {min(self.size) - 1} pixels, got {self.pad}")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"augmentation: jitter must be from 0 to 1, got {self.jitter}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ConfigError(f"augmentation: ratio must be a positive least and greatest, got {list(self.ratio)}")
        if self.scale is None:
            return
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"augmentation: scale must be a least and greatest in (0, 1], got {list(self.scale)}")
        if self.pad:
            raise ConfigError("augmentation: pad and scale are two ways to crop; give one of them")

    @property
    def full_picture(self) -> bool:
        """Whether `apply` takes a split's full-size image (`raw`) instead of the one at input size (`image`)."""
        return self.scale is not None

    def apply(self, raw_image: Pixels, rng: np.random.Generator) -> Pixels:
        """Augments one image. The same generator state gives the same result.

        Args:
            raw_image: uint8 [any, any, C]; without `scale`, an image of another size is first resized to `size`.
            rng: The only source of randomness.

        Returns:
            uint8 [H, W, C] with H, W = `size`.
        """
        # One call draws three numbers, because a call to the generator is slower than drawing the numbers.
        down, right, mirror = rng.random(3)
        if self.scale is None:
            pixels = _resize(raw_image, self.size)
            if self.pad:
                offsets = 2 * self.pad + 1
                pixels = _shift(pixels, int(down * offsets) - self.pad, int(right * offsets) - self.pad)
        else:
            top, left, height, width = self._window(raw_image.shape[0], raw_image.shape[1], self.scale, rng)
            pixels = _resize(raw_image[top : top + height, left : left + width], self.size)
        if self.flip and mirror < 0.5:
            pixels = pixels[:, ::-1]
        if self.jitter:
            pixels = _color_jitter(pixels, rng.uniform(1 - self.jitter, 1 + self.jitter, 3).astype(np.float32))
        return np.ascontiguousarray(pixels)

    def _window(
        self, height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draws top, left, height and width of a crop within an image of `height` x `width` pixels."""
        for _ in range(_CROP_ATTEMPTS):
            area = height * width * rng.uniform(*scale)
            # Log-uniform, so that wide and tall crops are equally likely.
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top, left = rng.integers(0, (height - rows + 1, width - columns + 1))
                return int(top), int(left), rows, columns
        # Images of extreme aspect ratio rarely fit a random crop. Use the largest center crop of an allowed ratio.
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        rows, columns = max(1, min(height, round(width / ratio))), max(1, min(width, round(height * ratio)))
        return (height - rows) // 2, (width - columns) // 2, rows, columns


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resizes uint8 [any, any, C] to uint8 [*size, C], without preserving the aspect ratio."""
    if pixels.shape[:2] == size:
        return pixels
    channels = pixels.shape[2]
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8).reshape(*size, channels)


def _shift(pixels: Pixels, down: int, right: int) -> Pixels:
    """Shifts the image up by `down` rows and left by `right` columns, and fills with zeros."""
    height, width = pixels.shape[:2]
    out = np.zeros_like(pixels)
    out[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)] = pixels[
        max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)
    ]
    return out


def _color_jitter(pixels: Pixels, factors: Floats) -> Pixels:
    """Multiplies brightness, then contrast, then saturation by the `factors`; grey images have no saturation."""
    brightness, contrast, saturation = factors
    values = pixels.astype(np.float32) * brightness
    mean = _luma(values).mean()
    values = mean + (values - mean) * contrast
    if pixels.shape[2] == 3:
        grey = _luma(values)
        values = grey + (values - grey) * saturation
    rounded: Floats = np.rint(values)
    return rounded.clip(0, 255).astype(np.uint8)


def _luma(values: Floats) -> Floats:
    """The luma of [H, W, C] (ITU-R BT.601): [H, W, 1]."""
    if values.shape[2] == 1:
        return values
    brightness: Floats = values @ _LUMA
    return brightness[:, :, None]
