"""The three kinds of array that pass between the modules of this package."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Pixel values, 0 (black) to 255; channels last."""

Floats: TypeAlias = npt.NDArray[np.float32]
"""Normalised pixel values, without a unit; channels before height and width, as networks take them."""

Labels: TypeAlias = npt.NDArray[np.int64]
"""Class numbers from 0, or indices of pictures."""

Shape: TypeAlias = tuple[int, int, int]
"""The input of a network for one picture: channels, height, width."""


def format_shape(shape: Shape) -> str:
    """Writes (3, 32, 40) as `3x32x40`, for messages."""
    return "x".join(str(size) for size in shape)
