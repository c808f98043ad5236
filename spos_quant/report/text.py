"""Formats numbers and units for readers."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, isfinite, log10, sqrt
from typing import Any, TypeGuard

from spos_quant.cost.metrics import metrics
from spos_quant.cost.units import human

JUDGES = {
    "top1": "accuracy in the supernet",
    "loss": "loss in the supernet",
    "sensitivity": "sum of sensitivities from gradients",
}
"""What a ranking of architectures is by, per key of `judges` in `ranking.json`."""
NONE = "\u2013"
"""Shown if there is no value: a dash as wide as a digit."""
TIMES = "\u00d7"
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def unit(metric: str) -> str:
    """The unit of a cost metric."""
    return metrics[metric].unit or metrics[metric].label


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show."""
    return value is not None and isfinite(value)


def percent(value: float | None) -> str:
    """A fraction in percent with one decimal; two if one would round it up to 100 %."""
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
    """A difference of two fractions in percentage points."""
    shown = f"{100 * abs(difference):.1f}"
    return f"{shown} point{'' if shown == '1.0' else 's'}"


def cost(metric: str, value: float | None) -> str:
    """A cost without its metric: `2.312M`, `2.312 ms`."""
    return metrics[metric].text(value) if known(value) else NONE


def amount(metric: str, value: float | None) -> str:
    """A cost with its metric: `2.312M BitOps`, `2.312 ms`."""
    return metrics[metric].amount(value) if known(value) else NONE


def count(value: float | None) -> str:
    """A count: `2.312M`."""
    return human(value) if known(value) else NONE


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
    """A number of architectures: in full below 10⁷, then as `1.21 × 10²⁰`.

    Works for integers too large for a float or for Python's decimal conversion.
    """
    if value < 10**7:
        return f"{value:,}"
    exponent = floor(log10(value))
    mantissa = 10 ** (log10(value) - exponent)
    return f"{mantissa:.2f} {TIMES} 10{str(exponent).translate(_SUPERSCRIPTS)}"


def budget_text(metric: str, limit: int, text: str | None = None) -> str:
    """A budget as given, and its value if the text alone does not show it: `35% = 2.31M BitOps`."""
    value = amount(metric, limit)
    given = (text or "").replace(",", "").replace("_", "").strip()
    if given.endswith("%") or given[:1] in ("w", "W") or given.endswith("i"):
        return f"{given} = {value}"
    return value


def half_interval(share: float, n: int) -> float:
    """Half of Wilson's 95 % interval of a fraction that was counted on `n` images."""
    z = 1.96
    return z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))


def by_chance(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the difference of two accuracies (`top1` over `n` images) is within their combined 95 % intervals."""
    if not a.get("n") or not b.get("n"):
        return False
    spread = sum(half_interval(x["top1"], x["n"]) ** 2 for x in (a, b))
    return float(abs(a["top1"] - b["top1"])) < sqrt(spread)


def bits(value: int | None) -> str:
    """The bits of a layer's weights or inputs; `float` for None."""
    return "float" if value is None else str(value)
