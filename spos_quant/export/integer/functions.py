"""Functions of single values, and the tables that stand for them where values are codes."""

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
"""By the names of ONNX; parameters in the order of their names."""


def value_of(function: str, parameters: tuple[float, ...], x: Array) -> Array:
    """A function of ONNX at `x`, in float64; `x*NAME` is its product with `x`."""
    x = np.asarray(x, dtype=np.float64)
    if function.startswith("x*"):
        return np.asarray(x * _FUNCTIONS[function.removeprefix("x*")](x, *parameters))
    return np.asarray(_FUNCTIONS[function](x, *parameters))


def table_of(function: str, parameters: tuple[float, ...], source: QuantParams, target: QuantParams) -> Array:
    """`[256]` uint8: the code of a function's value for every code of its argument."""
    values = value_of(function, parameters, source.real(np.arange(256)))
    codes: Array = np.rint(values / target.scale) + target.zero_point
    return np.clip(codes, target.qmin, target.qmax).astype(np.uint8)
