"""The evaluations of a run as CSV, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

COLUMNS = ("architecture", "generation", "cost", "score", "loss", "on_front", "searches")


def evaluations_csv(data: Mapping[str, Any]) -> str:
    """Every evaluation, one a row, in the order in which they were made.

    Args:
        data: What `report.json` holds.

    Returns:
        A table of `COLUMNS`: candidate indices, the generation that asked first, the cost in the run's metric, top-1
        and loss in the supernet on search-val, 1 where nothing cheaper scores as high, and the keys of the searches
        that asked for it, between spaces. A value that is not known is empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    on_front = set(data.get("front") or ())
    for i, item in enumerate(data.get("evaluations") or ()):
        values = [item.get(key) for key in COLUMNS[:5]]
        writer.writerow([*values, int(i in on_front), " ".join(item.get("searches") or ())])
    return out.getvalue()
