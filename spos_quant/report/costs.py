"""The columns of cost metrics in tables of models."""

from __future__ import annotations

from spos_quant.cost.metrics import metrics
from spos_quant.report.markup import Markup, element, head_cell, number_cell
from spos_quant.report.text import NONE, cost, exact


def cost_head(metric: str) -> Markup:
    """The header cell of a metric."""
    found = metrics[metric]
    heading = found.heading or found.label
    return head_cell(heading[:1].upper() + heading[1:], number=True, hint=found.hint or None)


def cost_cell(metric: str, value: int | None) -> Markup:
    """A cost, rounded; all digits as its tooltip."""
    title = None if value is None else exact(value)
    shown = NONE if value is None else cost(metric, value)
    return number_cell(element("span", shown, attributes={"title": title}), value)
