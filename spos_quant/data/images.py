"""Reads image files of all formats that PIL decodes, as 8-bit images of one or three channels."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
from PIL import Image

from spos_quant.errors import DataError

MODES = {1: "L", 3: "RGB"}
"""PIL's 8-bit mode by number of channels."""

# Exceptions that PIL's decoders are known to raise on damaged files.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image to 8-bit grey or RGB; an alpha channel is dropped.

    Args:
        image: An image of any mode but floating point.
        channels: 1 for grey (mode L), 3 for RGB.

    Returns:
        The image, of the same width and height.

    Raises:
        DataError: The values are floating-point numbers or exceed 16 bits; their black and white levels are unknown.
    """
    if image.mode == "F":
        raise DataError("its pixels are floating-point numbers; save it with 8 bits per channel")
    if image.mode.startswith("I"):
        # Some versions of PIL clip 16-bit values at 255 when converting, which turns the image white.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError("its pixels have more than 16 bits; save it with 8 bits per channel")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def read_image(path: str | os.PathLike[str], channels: int) -> Image.Image:
    """Decodes an image file as stored, without EXIF rotation. Of an animation, it decodes the first frame.

    Args:
        path: The file.
        channels: 1 for grey, 3 for RGB.

    Returns:
        The image in mode L or RGB, loaded into memory.

    Raises:
        DataError: The file is missing or PIL cannot decode it; the message names the file.
    """
    try:
        with Image.open(path) as image:
            return to_mode(image, channels).copy()
    except FileNotFoundError as error:
        raise DataError(f"image {os.fspath(path)}: no such file") from error
    except DataError as error:
        raise DataError(f"image {os.fspath(path)} cannot be used: {error}") from error
    except _DECODING_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"image {os.fspath(path)} cannot be read: {reason}; replace or remove the file") from error
