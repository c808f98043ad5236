"""The array types of this package, and the shape of a network's input."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Pixel values from 0 (black) to 255, channels last."""

Floats: TypeAlias = npt.NDArray[np.float32]
"""Normalized pixel values (dimensionless), channels before height and width, as networks take them."""

Labels: TypeAlias = npt.NDArray[np.int64]
"""Class numbers from 0, or indices of images."""

Shape: TypeAlias = tuple[int, int, int]
"""Input shape of a network for one image: channels, height, width."""


def format_shape(shape: Shape) -> str:
    """Formats (3, 32, 40) as `3x32x40`, for messages."""
    return "x".join(str(size) for size in shape)
