"""The evaluations of a run and their fronts as CSV, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

COSTS = ("bitops", "macs", "params", "weight_bytes", "latency")
COLUMNS = ("architecture", "generation", "cost", "score", "loss", "on_front", "searches", *COSTS)
FRONT_COLUMNS = ("metric", "cost", "score", "loss", "architecture", "searches")


def evaluations_csv(columns: Mapping[str, Sequence[Any]]) -> str:
    """Every evaluation, one a row, in the order in which they were made.

    Args:
        columns: Values by the names of `COLUMNS`; a column that is not there is empty.

    Returns:
        A table of `COLUMNS`: candidate indices, the generation that asked first, the cost in the run's metric, top-1
        and loss in the supernet on search-val, 1 where nothing cheaper scores as high, the keys of the searches that
        asked for it, between spaces, and the cost in every metric. A value that is not known is empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    nothing = [None] * len(columns.get(COLUMNS[0], ()))
    writer.writerows(zip(*(columns.get(name, nothing) for name in COLUMNS), strict=True))
    return out.getvalue()


def front_csv(data: Mapping[str, Any]) -> str:
    """The fronts of a run, one per metric, from cheap to dear.

    Args:
        data: What `report.json` holds.

    Returns:
        A table of `FRONT_COLUMNS`, one architecture a row, which no other evaluation beats in both that cost and score.
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
