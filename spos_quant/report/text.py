"""Words and numbers of the report: formats, the verdict in one sentence, the CSV of evaluations."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from spos_quant.cost.budget import human

UNITS = {"bitops": "BitOps", "macs": "MACs", "params": "parameters", "weight_bytes": "bytes of weights"}


def percent(value: float | None) -> str:
    """A share in percent, one decimal; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def number(value: int | None) -> str:
    """A count for people; a dash where there is none."""
    return "-" if value is None else human(value)


def accuracy(result: Mapping[str, Any]) -> tuple[str, float] | None:
    """The split and top-1 that speak for a result: test, else search-val; None before retraining."""
    for split in ("test", "search_val"):
        if result.get(split):
            return split.replace("_", "-"), float(result[split]["top1"])
    return None


def verdict(data: Mapping[str, Any]) -> str:
    """What the run found, in one sentence, also where it found nothing better."""
    searched = [r for r in data["results"] if r["kind"] == "searched"]
    if not searched:
        if not data["history"]:
            return "Nothing is trained yet: spos-quant train makes the supernet."
        return "The supernet is trained; spos-quant search finds an architecture under a budget."
    result = searched[0]
    metric, cost = _cost(data, result)
    limit = next(iter((result["budget"] or {}).values()), None)
    within = f"Within {number(limit)} {UNITS.get(metric, metric)}" if limit is not None else "The search"
    found = accuracy(result)
    if found is None:
        score = percent(result["supernet_top1"])
        return (
            f"{within} the search found an architecture of {number(cost)} that reaches {score} in the supernet; "
            "it is not retrained yet."
        )
    split, top1 = found
    sentence = (
        f"{within} the search found a network of {number(cost)} that reaches {percent(top1)} on the {split} split"
    )
    return f"{sentence}; {_against(data, metric, cost, split, top1)}."


def _cost(data: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, int]:
    metric = next(iter(result["budget"] or {}), data["metric"])
    return metric, int(result["cost"][metric] or 0)


def _against(data: Mapping[str, Any], metric: str, cost: int, split: str, top1: float) -> str:
    """How the winner stands against the cheapest uniform configuration that costs as much or more."""
    key = split.replace("-", "_")
    rivals = [
        r for r in data["results"] if r["kind"] == "uniform" and r.get(key) and int(r["cost"][metric] or 0) >= cost
    ]
    if not rivals:
        return "no uniform configuration of equal or higher cost was retrained to compare with"
    rival = min(rivals, key=lambda r: r["cost"][metric])
    name, theirs = rival["key"].removeprefix("bits-"), float(rival[key]["top1"])
    more = 100 * (rival["cost"][metric] / max(cost, 1) - 1)
    costs = f"uniform {name}, which costs {more:.0f} % more," if more >= 0.5 else f"uniform {name} at the same cost"
    if top1 > theirs:
        return f"{costs} reaches {percent(theirs)}"
    if top1 == theirs:
        return f"{costs} reaches the same"
    return f"{costs} is better with {percent(theirs)}"


def evaluations_csv(data: Mapping[str, Any]) -> str:
    """Every evaluation as CSV: `architecture, generation, cost, score, loss, on_front, searches`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["architecture", "generation", "cost", "score", "loss", "on_front", "searches"])
    on_front = set(data["front"])
    for i, item in enumerate(data["evaluations"]):
        generation = "" if item["generation"] is None else item["generation"]
        loss = "" if item["loss"] is None else item["loss"]
        searches = " ".join(item["searches"])
        writer.writerow(
            [item["architecture"], generation, item["cost"], item["score"], loss, int(i in on_front), searches]
        )
    return out.getvalue()
