"""Facts derived from the data of a run: the leading result, kept budgets, missing steps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Data = Mapping[str, Any]
Result = Mapping[str, Any]
KINDS = ("searched", "uniform", "float", "given")
SPLITS = (("test", "on the test split"), ("search_val", "on search-val"))


@dataclass(frozen=True)
class Step:
    """Something that a run lacks, and the command that makes it."""

    what: str
    command: str


def full_precision(data: Data) -> bool:
    """Whether the space has no bits. `bitops` is then null and the metric is MACs."""
    return bool(data["metric"] == "macs")


def ordered(data: Data) -> list[Result]:
    """The results in the order of `KINDS`; within a kind in the order of the data."""
    order = {kind: i for i, kind in enumerate(KINDS)}
    return sorted(data.get("results") or (), key=lambda result: order.get(result["kind"], len(KINDS)))


def of_kind(data: Data, kind: str) -> list[Result]:
    """The results of one kind."""
    return [result for result in data.get("results") or () if result["kind"] == kind]


def leading(data: Data) -> Result | None:
    """The searched result that the page shows first: one with a test score if any, then the best on search-val.

    The score on the test split is not used, so nothing on the page is selected by it.
    """
    found = of_kind(data, "searched")
    if not found:
        return None

    def rank(result: Result) -> tuple[bool, float, float]:
        return bool(result.get("test")), top1(result, "search_val") or 0.0, result.get("supernet_top1") or 0.0

    return max(found, key=rank)


def top1(result: Result, split: str) -> float | None:
    """Accuracy of a retrained model on a split."""
    scored = result.get(split)
    return None if not scored else scored["top1"]


def cost_of(result: Result, metric: str) -> int | None:
    """The cost of a result; None if the metric does not apply or the cost is unknown."""
    value: int | None = result["cost"].get(metric)
    return value


def keeps_budget(result: Result) -> bool | None:
    """Whether a result is within all its budgets; None if it has no budget or a cost is unknown."""
    budget = result.get("budget") or {}
    costs = {metric: cost_of(result, metric) for metric in budget}
    if any(value is not None and value > budget[metric] for metric, value in costs.items()):
        return False
    return None if not budget or None in costs.values() else True


def ended_early(result: Result) -> bool:
    """Whether a time limit ended the search before all planned evaluations."""
    return result.get("complete") is False


def early_end(result: Result) -> str:
    """Text on how far a search came that a time limit ended."""
    if result.get("finalists", ()) is None:
        return "ended early by the time limit, before its finalists were scored on all images"
    asked, wanted = result.get("asked") or 0, result.get("planned") or 0
    of = f" of about {wanted:,}" if wanted else ""
    return f"ended early by the time limit: {asked:,}{of} architectures"


def early_ends(data: Data) -> list[str]:
    """One sentence per search that a time limit ended."""
    return [f"Search {r['key']} was {early_end(r)}." for r in ordered(data) if ended_early(r)]


def skipped_steps(data: Data) -> str:
    """The number of steps skipped because of a non-finite loss, per training; empty if there are none."""
    trainings = [("supernet", data.get("history") or ())]
    trainings += [(r["key"], r.get("history") or ()) for r in ordered(data)]
    counts = {name: sum(record.get("skipped") or 0 for record in history) for name, history in trainings}
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def is_retrained(result: Result) -> bool:
    """Whether a result has a retrained model."""
    return any(result.get(key) for key in ("search_val", "test", "history", "export"))


def metric_of(data: Data, result: Result) -> str:
    """The metric to compare a result in: that of its budget if it has exactly one, else the run's."""
    budget = result.get("budget") or {}
    return next(iter(budget)) if len(budget) == 1 else str(data["metric"])


def run_path(data: Data) -> str:
    """The run directory from the listed commands, quoted for a shell; `RUN` if no command names it."""
    for item in data.get("commands") or ():
        try:
            words = shlex.split(item["command"])
        except ValueError:
            continue
        if len(words) > 2 and words[0] == "spos-quant" and not words[2].startswith("-"):
            return shlex.quote(words[2])
    return "RUN"


def steps(data: Data) -> list[Step]:
    """What the run lacks, in the order of the stages."""
    path, option = run_path(data), f"--{data['metric']}-budget"
    if not (data.get("history") or data.get("evaluations") or data.get("results")):
        space = shlex.quote(str(data["space"]["name"]))
        return [Step("The supernet is not trained yet.", f"spos-quant train {space} --out {path}")]
    early = [result for result in ordered(data) if ended_early(result)]
    found = [Step(f"Search {r['key']} was {early_end(r)}.", _again(data, r)) for r in early]
    if not of_kind(data, "searched"):
        found.append(Step("No search has finished yet.", f"spos-quant search {path} {option} 35%"))
    for result in ordered(data):
        found += _steps_of(result, path, full=full_precision(data))
    if not full_precision(data) and data.get("results") and not of_kind(data, "uniform"):
        name = _nearest_baseline(data)
        what = "No uniform configuration is retrained to compare with."
        found.append(Step(what, f"spos-quant retrain {path} --bits {name}"))
    return found


def _again(data: Data, result: Result) -> str:
    """The command that resumes a search."""
    key, budget = result["key"], result.get("budget") or {}
    given = {b["metric"]: b.get("text") for b in data.get("budgets") or () if b["key"] == key}
    words = ["spos-quant", "search", run_path(data)]
    for metric, limit in budget.items():
        words += [f"--{metric.replace('_', '-')}-budget", shlex.quote(str(given.get(metric) or limit))]
    name, _, searcher = key.rpartition("-")
    if not searcher.isalpha():
        name, searcher = key, ""
    if name.startswith("drop-"):
        words += ["--max-accuracy-drop", shlex.quote(name.removeprefix("drop-"))]
    return " ".join([*words, *(["--searcher", searcher] if searcher else [])])


def _steps_of(result: Result, path: str, *, full: bool) -> list[Step]:
    key, kind = result["key"], result["kind"]
    which = f"{path} --result {shlex.quote(key)}"
    if not is_retrained(result):
        return [Step(f"{key} is not retrained yet.", f"spos-quant retrain {which}")]
    found = []
    if not result.get("test"):
        found.append(Step(f"{key} has no accuracy on the test split yet.", f"spos-quant evaluate {which}"))
    # Baselines serve comparison only; they need no exported file.
    if kind == "searched" and not result.get("export"):
        form = "onnx" if full else "onnx-qcdq"
        found.append(Step(f"{key} is not exported yet.", f"spos-quant export {which} --format {form}"))
    return found


def _nearest_baseline(data: Data) -> str:
    """The uniform configuration closest in cost to the leading result; `w4a4` if that is unknown."""
    baselines: Sequence[Mapping[str, Any]] = data.get("baselines") or ()
    result = leading(data)
    cost = None if result is None else cost_of(result, data["metric"])
    if not baselines or cost is None:
        return "w4a4"
    return str(min(baselines, key=lambda item: abs(item["cost"] - cost))["name"])
