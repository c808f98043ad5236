"""The result of a run in sentences, also if a uniform configuration is better than the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

from spos_quant.report.facts import (
    SPLITS,
    Data,
    Result,
    cost_of,
    early_end,
    ended_early,
    full_precision,
    keeps_budget,
    leading,
    metric_of,
    of_kind,
    top1,
)
from spos_quant.report.text import NONE, amount, by_chance, count, known, percent, points, unit


@dataclass(frozen=True)
class Rival:
    """A baseline that a searched result is compared with, scored on the same split."""

    name: str
    cost: int
    accuracy: float
    scored: Mapping[str, Any]
    """`top1` and, if known, the number of images `n`."""


@dataclass(frozen=True)
class _Searched:
    """A searched result as one side of a comparison."""

    metric: str
    cost: int | None
    limit: int | None
    accuracy: float
    scored: Mapping[str, Any]


def verdict(data: Data) -> str:
    """The result of a run in one sentence."""
    result = leading(data)
    return _without_search(data) if result is None else sentence(data, result)


def remarks(data: Data) -> list[str]:
    """Further sentences: a difference within chance, the float model, and the other budgets."""
    first = leading(data)
    if first is None:
        return []
    found = [_chance(data, first), _float_gap(data, first)]
    found += [sentence(data, other) for other in of_kind(data, "searched") if other is not first]
    return [remark for remark in found if remark]


def sentence(data: Data, result: Result) -> str:
    """A sentence on a searched result: its budget, accuracy, best baseline, and whether its search ended early."""
    early = f" This search was {early_end(result)}; repeat its command to resume." if ended_early(result) else ""
    return _found(data, result) + _final(result) + early


def _final(result: Result) -> str:
    """A sentence on the re-ranking of finalists on all of search-val; empty if there was none."""
    finalists = result.get("finalists") or ()
    if not finalists:
        return ""
    score = percent(finalists[0]["score"])
    return f" It won among {len(finalists)} finalists scored on all of search-val, with {score} in the supernet."


def _found(data: Data, result: Result) -> str:
    budget = result.get("budget") or {}
    limits = " and ".join(amount(metric, limit) for metric, limit in budget.items())
    start = f"Within {limits} the search found" if limits else f"The search {result['key']} found"
    if keeps_budget(result) is False:
        broken = [m for m, limit in budget.items() if (cost_of(result, m) or 0) > limit]
        costs = " and ".join(amount(m, cost_of(result, m)) for m in broken)
        start = f"The search for {limits} broke its budget with {costs}; it found"
    split, searched = _searched(data, result)
    if split is None:
        score = result.get("supernet_top1")
        if not known(score):
            return f"{start} an architecture that is not scored yet."
        reached = f"an architecture of {percent(score)} in the supernet, not retrained yet"
    else:
        reached = f"{percent(searched.accuracy)} {dict(SPLITS)[split]}"
    return f"{start} {reached}; {_against(_rivals(data, searched.metric, split), searched, split)}."


def _searched(data: Data, result: Result) -> tuple[str | None, _Searched]:
    """The split to compare a result on (None: search-val in the supernet) and the result's side of the comparison."""
    split = next((name for name, _ in SPLITS if known(top1(result, name))), None)
    # Costs of uniform configurations in the supernet are recorded in the run's metric only.
    metric = str(data["metric"]) if split is None else metric_of(data, result)
    scored = {"top1": result.get("supernet_top1") or 0.0} if split is None else result[split]
    limit = (result.get("budget") or {}).get(metric)
    return split, _Searched(metric, cost_of(result, metric), limit, float(scored["top1"]), scored)


def _rivals(data: Data, metric: str, split: str | None) -> list[Rival]:
    if split is None:
        known_ones = [item for item in data.get("baselines") or () if known(item["score"])]
        return [
            Rival(f"uniform {i['name']}", i["cost"], i["score"], {"top1": i["score"]}) for i in known_ones if i["cost"]
        ]
    # In a full-precision space the baseline is the backbone as published.
    kinds = ("uniform", "float") if full_precision(data) else ("uniform",)
    found = []
    for result in (r for kind in kinds for r in of_kind(data, kind)):
        cost, accuracy = cost_of(result, metric), top1(result, split)
        if cost and accuracy is not None and known(accuracy):
            float_ = result["kind"] == "float"
            name = "the backbone as published" if float_ else f"uniform {result['key'].removeprefix('bits-')}"
            found.append(Rival(name, cost, accuracy, result[split]))
    return found


def _baseline_for(rivals: list[Rival], searched: _Searched) -> tuple[Rival | None, bool]:
    """The baseline to compare with, and whether it wins.

    A baseline wins if it is more accurate within the budget or at no higher cost, or as accurate at no higher cost.
    Returns the most accurate winner, else the baseline nearest in cost.
    """
    cost = searched.cost
    if not rivals or not cost:
        return None, False
    bound = max(cost, searched.limit or 0)
    winners = [
        r
        for r in rivals
        if (r.accuracy > searched.accuracy and r.cost <= bound) or (r.accuracy == searched.accuracy and r.cost <= cost)
    ]
    if winners:
        return max(winners, key=lambda r: (r.accuracy, -r.cost)), True
    return min(rivals, key=lambda r: (abs(log(r.cost / cost)), -r.accuracy)), False


def _against(rivals: list[Rival], searched: _Searched, split: str | None) -> str:
    rival, wins = _baseline_for(rivals, searched)
    if rival is None or not searched.cost:
        if split is None:
            return "no uniform configuration is scored in the supernet to compare with"
        return "no uniform configuration is scored on that split to compare with"
    costs, same = _relative_cost(rival.cost / searched.cost), rival.accuracy == searched.accuracy
    reaches = f"reaches {'the same ' if same else ''}{percent(rival.accuracy)}"
    if not wins:
        return f"{rival.name} costs {costs} and {reaches}"
    better = "does as well" if same else "does better"
    within = " within the same budget" if searched.limit is not None and rival.cost <= searched.limit else ""
    return f"{rival.name} {better}{within}: it costs {costs} and {reaches}"


def _relative_cost(ratio: float) -> str:
    change = ratio - 1
    if abs(change) < 0.005:
        return "the same"
    if ratio >= 2:
        return f"{ratio:.1f} times as much"
    return f"{100 * abs(change):.0f} % {'more' if change > 0 else 'less'}"


def _chance(data: Data, result: Result) -> str | None:
    split, searched = _searched(data, result)
    rival, _ = _baseline_for(_rivals(data, searched.metric, split), searched)
    if split is None or rival is None or not by_chance(searched.scored, rival.scored):
        return None
    difference = abs(searched.accuracy - rival.accuracy)
    if difference == 0:
        return None
    n = searched.scored["n"]
    return (
        f"On {n:,} images a difference of {points(difference)} is within chance: "
        f"it is {round(difference * n)} of the images."
    )


def _float_gap(data: Data, result: Result) -> str | None:
    split, _ = _searched(data, result)
    if split is None or full_precision(data):
        return None
    reference = next((r for r in of_kind(data, "float") if known(top1(r, split))), None)
    if reference is None:
        return None
    accuracy = float(reference[split]["top1"])
    smaller = ""
    ours, theirs = cost_of(result, "weight_bytes"), cost_of(reference, "weight_bytes")
    if ours and theirs:
        smaller = f"; its weights take {theirs / ours:.1f} times as many bytes"
    return f"The backbone in float reaches {percent(accuracy)} {dict(SPLITS)[split]}{smaller}."


def _without_search(data: Data) -> str:
    """The sentence of a run without a finished search."""
    for split, where in SPLITS:
        scored = [r for r in data.get("results") or () if known(top1(r, split))]
        if scored:
            best = max(scored, key=lambda r: top1(r, "search_val") or top1(r, split) or 0.0)
            name = best["key"].removeprefix("bits-")
            name = f"uniform {name}" if best["kind"] == "uniform" else name
            cost = cost_of(best, data["metric"])
            at = "" if cost is None else f" at {count(cost)} {unit(data['metric'])}"
            return f"No search has finished yet; {name} reaches {percent(top1(best, split))} {where}{at}."
    history = data.get("history") or ()
    if history:
        accuracy = percent(history[-1].get("top1"))
        reached = "" if accuracy == NONE else f", {accuracy} on training images along sampled paths"
        passed = history[-1].get("epoch") or len(history)  # a fraction if the last epoch is incomplete
        epochs = f"{passed:.6g} epoch{'' if passed == 1 else 's'}"
        return f"The supernet is trained ({epochs}{reached}); no search has finished yet."
    if data.get("evaluated"):
        return f"{data['evaluated']:,} architectures are evaluated; no search has finished yet."
    return "Nothing is trained yet."
