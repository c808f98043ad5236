"""Contrast of colours by WCAG 2, and colours as seen with colour blindness."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

Colour = npt.NDArray[np.float64]
"""Red, green and blue from 0 to 1, in sRGB."""
# Machado, Oliveira and Fernandes 2009, severity 1; they work on linear light.
BLIND = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def parse(css: str) -> tuple[Colour, float]:
    """Parses a computed CSS colour into colour and opacity."""
    numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e-?\d+)?", css.removeprefix("color(srgb"))]
    scale = 1.0 if css.startswith("color(srgb") else 255.0
    return np.array(numbers[:3]) / scale, numbers[3] if len(numbers) > 3 else 1.0


def over(css: str, below: Colour) -> Colour:
    """A colour on top of another."""
    colour, opacity = parse(css)
    return opacity * colour + (1 - opacity) * below


def linear(colour: Colour) -> Colour:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def luminance(colour: Colour, blindness: str = "none") -> float:
    seen = np.clip(BLIND[blindness] @ linear(colour), 0, 1)
    return float(seen @ [0.2126, 0.7152, 0.0722])


def contrast(a: Colour, b: Colour) -> float:
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def distance(a: Colour, b: Colour, blindness: str) -> float:
    """CIE L*a*b* (1976) distance of two colours as seen with a colour blindness."""
    return float(np.linalg.norm(_lab(a, blindness) - _lab(b, blindness)))


def _lab(colour: Colour, blindness: str) -> Colour:
    seen = np.clip(BLIND[blindness] @ linear(colour), 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ seen / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
