"""Parses budgets: `2.5M`, `6.3Gi`, `w3a4`, `35%`, `2ms`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from spos_quant.cost.feasible import price
from spos_quant.cost.metrics import metrics
from spos_quant.cost.table import CostTable
from spos_quant.errors import BudgetError, SpaceError
from spos_quant.space.bit_config import parse_uniform

# A comma only between groups of three digits: `6,3G` is a mistake, not 63G.
_WHOLE = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*"
_NUMBER = re.compile(rf"((?:(?:{_WHOLE})(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,2}})?)\s*([A-Za-z%]*)")
_LONGEST = 40
_MOST = 2**62


@dataclass(frozen=True)
class Budget:
    """An upper bound on a cost metric, and the text that it was parsed from."""

    metric: str
    limit: int
    text: str
    low: int | None = None
    """The lower bound of a band; None for a budget."""

    @property
    def key(self) -> str:
        """The budget's part of a file name: `bitops-2.5M`."""
        return f"{self.metric}-{self.text.strip().replace('%', 'pct').replace(',', '').replace(' ', '')}"


def cost_range(table: CostTable, metric: str) -> tuple[int, int]:
    """The costs of the cheapest and the most expensive architecture."""
    root = price(table, metric)
    assert root is not None
    return root.low + table.constant(metric), root.high + table.constant(metric)


def parse_budget(text: str | float, metric: str, table: CostTable) -> Budget:
    """Parses the budget `text` for a metric of a space.

    Args:
        text: A number (`2.5`, `1,000`, `1e6`) with an optional suffix (K M G T are powers of 1000, Ki Mi Gi Ti of
            1024), `w3a4` (the backbone with uniform bits; not for MACs and parameters) or `35%` (of the most expensive
            architecture). A latency has a unit: `2ms`, `300us`.
        metric: A registered cost metric.
        table: The costs of the space.

    Raises:
        BudgetError: the text is invalid, not positive, has an unknown suffix or is below the cheapest architecture.
    """
    limit, shown = parse_cost(text, metric, table), str(text).strip()
    low, high = cost_range(table, metric)
    if limit < low:
        found = metrics[metric]
        raise BudgetError(
            f"{metric} budget {shown} ({found.exact(limit)}) is below the cheapest architecture of "
            f"{table.space.name!r} ({found.exact(low)}); feasible: {found.text(low)} to {found.text(high)}"
        )
    return Budget(metric, limit, shown)


def parse_cost(text: str | float, metric: str, table: CostTable) -> int:
    """Parses the cost `text` as `parse_budget` does, but accepts costs that no architecture can keep.

    Raises:
        BudgetError: the text is invalid, not positive or has an unknown suffix.
    """
    table.formula(metric)
    _check_metric(metric, table)
    shown = str(text).strip()
    limit = _uniform(shown, metric, table)
    return _number(shown, metric, table) if limit is None else limit


def _check_metric(metric: str, table: CostTable) -> None:
    if table.space.spec.full_precision and not metrics[metric].full_precision:
        others = " or ".join(f"--{name.replace('_', '-')}-budget" for name in table.budget_metrics[:2])
        raise BudgetError(
            f"space {table.space.name!r} is full precision and has no {metrics[metric].label}; give {others}"
        )


def _uniform(text: str, metric: str, table: CostTable) -> int | None:
    try:
        bits = parse_uniform(text)
    except SpaceError as error:
        raise BudgetError(f"{metric} budget {error}") from None
    if bits is None:
        return None
    if not metrics[metric].uniform:
        raise BudgetError(
            f"{metric} budget {text}: bit-widths do not determine {metric}; give a number or a percentage"
        )
    return table.config_total(table.space.uniform_config(*bits), metric)


def _number(text: str, metric: str, table: CostTable) -> int:
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    suffixes = metrics[metric].suffixes
    if match is None:
        raise BudgetError(
            f"{metric} budget {text!r} is no number above 0; expected such as {metrics[metric].examples}, w3a4 or 35%"
        )
    value, suffix = Fraction(match[1].replace(",", "").replace("_", "")), match[2]
    if suffix == "%":
        if not 0 < value <= 100:
            raise BudgetError(f"{metric} budget {text}: expected more than 0 % and at most 100 % of the most expensive")
        return int(cost_range(table, metric)[1] * value / 100)
    if suffix not in suffixes:
        raise BudgetError(f"{metric} budget {text!r}: unknown suffix {suffix!r}; expected {metrics[metric].expected}")
    limit = min(int(value * suffixes[suffix]), _MOST)
    if limit <= 0:
        raise BudgetError(f"{metric} budget {text!r}: expected a number above 0")
    return limit


def budget_warnings(budgets: list[Budget], table: CostTable) -> list[str]:
    """A warning for every budget that excludes no architecture."""
    remarks = []
    for budget in budgets:
        high = cost_range(table, budget.metric)[1]
        if budget.limit >= high:
            remarks.append(
                f"{budget.metric} budget {budget.text} excludes nothing: the most expensive architecture costs "
                f"{metrics[budget.metric].text(high)}"
            )
    return remarks


def budgets_key(budgets: list[Budget]) -> str:
    """The name of a result under these budgets: `bitops-2.5M`, or `bitops-2.5M+weight_bytes-40K`."""
    return "+".join(budget.key for budget in sorted(budgets, key=lambda b: b.metric)) or "unbounded"


def budgets_json(budgets: list[Budget]) -> dict[str, Any]:
    """`metric -> limit` for results."""
    return {budget.metric: budget.limit for budget in budgets}


def keeps(costs: Mapping[str, int], budgets: list[Budget]) -> bool:
    """Whether costs are within every budget."""
    return all((b.low or 0) <= costs[b.metric] <= b.limit for b in budgets)
