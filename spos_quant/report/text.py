"""Numbers and units as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, isfinite, log10, sqrt
from typing import Any, TypeGuard

from spos_quant.cost import units

UNITS = {
    "bitops": "BitOps",
    "bitops_total": "BitOps in all layers",
    "macs": "MACs",
    "params": "parameters",
    "weight_bytes": "bytes of weights",
    "latency": "latency",
}
JUDGES = {
    "top1": "accuracy in the supernet",
    "loss": "loss in the supernet",
    "sensitivity": "sum of sensitivities from gradients",
}
"""Who ranks architectures, by key of `ranking.json`."""
NONE = "\u2013"
"""Stands where there is no value: a dash as wide as a digit."""
TIMES = "\u00d7"
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def unit(metric: str) -> str:
    """The unit of a cost metric."""
    return UNITS.get(metric, metric)


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show."""
    return value is not None and isfinite(value)


def percent(value: float | None) -> str:
    """A share in percent with one decimal; more only where 100 % would be claimed and is not reached."""
    if not known(value):
        return NONE
    if value >= 1:
        return f"{100 * value:.4g} %"
    for digits in (1, 2):
        shown = f"{100 * value:.{digits}f}"
        if float(shown) < 100:
            return f"{shown} %"
    return "> 99.99 %"


def points(difference: float) -> str:
    """A difference of two shares in percentage points."""
    shown = f"{100 * abs(difference):.1f}"
    return f"{shown} point{'' if shown == '1.0' else 's'}"


def cost(metric: str, value: float | None) -> str:
    """A cost where its metric is named beside it: `2.312M`, `2.312 ms`."""
    return units.amount(metric, value) if known(value) else NONE


def amount(metric: str, value: float | None) -> str:
    """A cost that says what it is: `2.312M BitOps`, `2.312 ms`."""
    return cost(metric, value) if metric == units.LATENCY else f"{cost(metric, value)} {unit(metric)}"


def count(value: float | None) -> str:
    """A count: `2.312M`."""
    return units.human(value) if known(value) else NONE


def exact(value: int | None) -> str:
    """A count in full: `2,312,192`."""
    return NONE if value is None else f"{value:,}"


def file_size(value: int | None) -> str:
    """Bytes in powers of 1000: `38.9 kB`."""
    if value is None:
        return NONE
    for name, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= factor:
            return f"{value / factor:.3g} {name}" if value < 999.5 * factor else f"{value / factor:,.0f} {name}"
    return f"{value} B"


def space_size(value: int) -> str:
    """A number of architectures: in full up to millions, then `1.21 × 10²⁰`.

    Works on integers beyond what a float or Python's decimal conversion hold.
    """
    if value < 10**7:
        return f"{value:,}"
    exponent = floor(log10(value))
    mantissa = 10 ** (log10(value) - exponent)
    return f"{mantissa:.2f} {TIMES} 10{str(exponent).translate(_SUPERSCRIPTS)}"


def budget_text(metric: str, limit: int, text: str | None = None) -> str:
    """A budget as it was given, with its value where the words alone do not say it: `35 % = 2.31M BitOps`."""
    value = amount(metric, limit)
    given = (text or "").replace(",", "").replace("_", "").strip()
    if given.endswith("%") or given[:1] in ("w", "W") or given.endswith("i"):
        return f"{given} = {value}"
    return value


def half_interval(share: float, n: int) -> float:
    """Half of Wilson's 95 % interval of a share that was counted on `n` images."""
    z = 1.96
    return z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))


def by_chance(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two accuracies (`top1` over `n` images) are closer than their numbers of images can tell apart."""
    if not a.get("n") or not b.get("n"):
        return False
    spread = sum(half_interval(x["top1"], x["n"]) ** 2 for x in (a, b))
    return float(abs(a["top1"] - b["top1"])) < sqrt(spread)


def bits(value: int | None) -> str:
    """Bits of a layer's weights or inputs."""
    return "float" if value is None else str(value)
