"""The evaluations of a run and their Pareto fronts as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from spos_quant.cost.metrics import budget_metrics

COLUMNS = ("architecture", "generation", "cost", "score", "loss", "on_front", "searches")
"""Before the cost in every metric with a budget."""
FRONT_COLUMNS = ("metric", "cost", "score", "loss", "architecture", "searches")


def evaluations_csv(columns: Mapping[str, Sequence[Any]]) -> str:
    """One row per evaluation, in the order of evaluation.

    Args:
        columns: Values by name, of `COLUMNS` and of cost metrics; a missing column is empty.

    Returns:
        CSV with the columns `COLUMNS` and the cost metrics: candidate indices, the generation that first proposed the
        architecture, the cost in the run's metric, top-1 and loss in the supernet on search-val, 1 if the architecture
        is on the Pareto front, the keys of the searches that proposed it (separated by spaces), and the cost in every
        metric. Unknown values are empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = (*COLUMNS, *budget_metrics())
    writer.writerow(names)
    nothing = [None] * len(columns.get(COLUMNS[0], ()))
    writer.writerows(zip(*(columns.get(name, nothing) for name in names), strict=True))
    return out.getvalue()


def front_csv(data: Mapping[str, Any]) -> str:
    """The Pareto fronts of cost and score, one per cost metric, each sorted by increasing cost.

    Args:
        data: The content of `report.json`.

    Returns:
        CSV with the columns `FRONT_COLUMNS`, one row per architecture on a front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FRONT_COLUMNS)
    evaluations = data.get("evaluations") or ()
    for metric, found in (data.get("fronts") or {}).items():
        for item in (evaluations[i] for i in found["front"]):
            values = [item["costs"][metric], item["score"], item["loss"], item["architecture"]]
            writer.writerow([metric, *values, " ".join(item["searches"])])
    return out.getvalue()
