"""Budgets as people write them: `2.5M`, `6.3Gi`, `w3a4`, `35%`, `2ms`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from spos_quant.cost.feasible import price
from spos_quant.cost.table import CostTable
from spos_quant.cost.units import LATENCY, amount
from spos_quant.errors import BudgetError, SpaceError
from spos_quant.space.bit_config import parse_uniform

_SUFFIXES = {
    "": 1,
    **{s: 1000**i for i, s in enumerate("KMGT", 1)},
    **{f"{s}i": 1024**i for i, s in enumerate("KMGT", 1)},
}
# A comma only between groups of three digits: `6,3G` is a mistake, not 63G.
_WHOLE = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*"
_NUMBER = re.compile(rf"((?:(?:{_WHOLE})(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,2}})?)\s*([A-Za-z%]*)")
_LONGEST = 40
_MOST = 2**62
_TIMES = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
UNIFORM_METRICS = ("bitops", "bitops_total", "weight_bytes", LATENCY)
BUDGETED = ("bitops", "macs", "params", "weight_bytes")
"""Metrics with a budget option, beside the latency, which needs a table."""


@dataclass(frozen=True)
class Budget:
    """An upper bound on a cost metric, and the text that a person gave."""

    metric: str
    limit: int
    text: str
    low: int | None = None
    """A lower bound for bands; None for budgets."""

    @property
    def key(self) -> str:
        """A word for file names: `bitops-2.5M`."""
        return f"{self.metric}-{self.text.strip().replace('%', 'pct').replace(',', '').replace(' ', '')}"


def cost_range(table: CostTable, metric: str) -> tuple[int, int]:
    """The cost of the cheapest and of the most expensive architecture."""
    priced = price(table, metric)
    assert priced is not None
    return priced.low + table.constant(metric), priced.high + table.constant(metric)


def parse_budget(text: str | float, metric: str, table: CostTable) -> Budget:
    """The budget that `text` means for a metric of this space.

    Args:
        text: A number (`2.5`, `1,000`, `1e6`) with an optional suffix (K M G T are powers of 1000, Ki Mi Gi Ti of
            1024), `w3a4` (the backbone with uniform bits; not for MACs and parameters) or `35%` (of the most expensive
            architecture). A latency has a unit: `2ms`, `300us`.
        metric: A registered cost metric.
        table: The costs of the space.

    Raises:
        BudgetError: unreadable, not positive, of an unknown suffix, or below the cheapest architecture.
    """
    limit, shown = parse_cost(text, metric, table), str(text).strip()
    low, high = cost_range(table, metric)
    if limit < low:
        raise BudgetError(
            f"{metric} budget {shown} ({_exact(metric, limit)}) is below the cheapest architecture of "
            f"{table.space.name!r} ({_exact(metric, low)}); feasible: {amount(metric, low)} to {amount(metric, high)}"
        )
    return Budget(metric, limit, shown)


def parse_cost(text: str | float, metric: str, table: CostTable) -> int:
    """The cost that a budget's `text` means, whether or not an architecture keeps it.

    Raises:
        BudgetError: as `parse_budget`, but for costs below the cheapest architecture's.
    """
    table.metric(metric)
    _check_metric(metric, table)
    shown = str(text).strip()
    limit = _uniform(shown, metric, table)
    return _number(shown, metric, table) if limit is None else limit


def _check_metric(metric: str, table: CostTable) -> None:
    if metric.startswith("bitops") and table.space.spec.full_precision:
        raise BudgetError(
            f"space {table.space.name!r} is full precision and has no BitOps; give --macs-budget or --params-budget"
        )


def _uniform(text: str, metric: str, table: CostTable) -> int | None:
    try:
        bits = parse_uniform(text)
    except SpaceError as error:
        raise BudgetError(f"{metric} budget {error}") from None
    if bits is None:
        return None
    if metric not in UNIFORM_METRICS:
        raise BudgetError(
            f"{metric} budget {text}: bit-widths say nothing about {metric}; give a number or a percentage"
        )
    return table.config_total(table.space.uniform_config(*bits), metric)


def _number(text: str, metric: str, table: CostTable) -> int:
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    suffixes, examples = (_TIMES, "2ms, 300us") if metric == LATENCY else (_SUFFIXES, "2.5M, 6.3Gi")
    if match is None:
        raise BudgetError(f"{metric} budget {text!r} is no number above 0; expected such as {examples}, w3a4 or 35%")
    value, suffix = Fraction(match[1].replace(",", "").replace("_", "")), match[2]
    if suffix == "%":
        if not 0 < value <= 100:
            raise BudgetError(f"{metric} budget {text}: expected more than 0 % and at most 100 % of the most expensive")
        return int(cost_range(table, metric)[1] * value / 100)
    if suffix not in suffixes:
        expected = "K M G T (powers of 1000), Ki Mi Gi Ti (powers of 1024), % or none"
        raise BudgetError(
            f"{metric} budget {text!r}: unknown suffix {suffix!r}; expected "
            + ("ns, us, ms, s or %" if metric == LATENCY else expected)
        )
    limit = min(int(value * suffixes[suffix]), _MOST)
    if limit <= 0:
        raise BudgetError(f"{metric} budget {text!r}: expected a number above 0")
    return limit


def budget_warnings(budgets: list[Budget], table: CostTable) -> list[str]:
    """A remark for every budget that excludes nothing."""
    remarks = []
    for budget in budgets:
        high = cost_range(table, budget.metric)[1]
        if budget.limit >= high:
            remarks.append(
                f"{budget.metric} budget {budget.text} excludes nothing: the most expensive architecture costs "
                f"{amount(budget.metric, high)}"
            )
    return remarks


def budgeted(table: CostTable) -> tuple[str, ...]:
    """The metrics that may be bounded in a space: no BitOps in full precision, a latency where a table says it."""
    latency = (LATENCY,) if table.latency is not None and not table.latency.missing(table.space) else ()
    return tuple(name for name in BUDGETED if name != "bitops" or not table.space.spec.full_precision) + latency


def budgets_key(budgets: list[Budget]) -> str:
    """The name of a result under these budgets: `bitops-2.5M`, or `bitops-2.5M+weight_bytes-40K`."""
    return "+".join(budget.key for budget in sorted(budgets, key=lambda b: b.metric)) or "unbounded"


def budgets_json(budgets: list[Budget]) -> dict[str, Any]:
    """`metric -> limit` for results."""
    return {budget.metric: budget.limit for budget in budgets}


def keeps(costs: Mapping[str, int], budgets: list[Budget]) -> bool:
    """Whether costs are within every budget."""
    return all((b.low or 0) <= costs[b.metric] <= b.limit for b in budgets)


def _exact(metric: str, value: int) -> str:
    return amount(metric, value) if metric == LATENCY else f"{value:,}"
