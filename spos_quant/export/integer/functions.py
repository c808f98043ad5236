"""Elementwise functions, and their lookup tables on codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spos_quant.export.integer.graph import Array, QuantParams

_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "Limits": lambda x, low, high: np.clip(x, low, high),
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "LeakyRelu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "Elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Tanh": np.tanh,
}
"""ONNX operator -> function; the parameters are in alphabetical order."""


def value_of(function: str, parameters: tuple[float, ...], x: Array) -> Array:
    """The value of an ONNX function at `x`, in float64; `x*NAME` is the function NAME times `x`."""
    x = np.asarray(x, dtype=np.float64)
    if function.startswith("x*"):
        return np.asarray(x * _FUNCTIONS[function.removeprefix("x*")](x, *parameters))
    return np.asarray(_FUNCTIONS[function](x, *parameters))


def lookup_table(function: str, parameters: tuple[float, ...], source: QuantParams, target: QuantParams) -> Array:
    """The lookup table of a function, uint8 `[256]`: input code -> output code."""
    values = value_of(function, parameters, source.real(np.arange(256)))
    codes: Array = np.rint(values / target.scale) + target.zero_point
    return np.clip(codes, target.qmin, target.qmax).astype(np.uint8)
