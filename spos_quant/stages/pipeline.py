"""`spos-quant run`: all stages, including the baselines to compare a search with."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from spos_quant.cost.budget import Budget
from spos_quant.cost.metrics import column_metrics
from spos_quant.errors import ConfigError
from spos_quant.progress import remark
from spos_quant.space.bit_config import read_bit_config
from spos_quant.space.uniform import offered_pairs
from spos_quant.stages.card import write_card
from spos_quant.stages.evaluate import evaluate_result, measured
from spos_quant.stages.export import export_result, exports, natural_format
from spos_quant.stages.models import FLOAT_KEY
from spos_quant.stages.report import write_report
from spos_quant.stages.retrain import retrain_result, user_result
from spos_quant.stages.run import Result, Run
from spos_quant.stages.search import metric_of, search_run
from spos_quant.stages.search_request import Request
from spos_quant.stages.train import train_supernet

_USUAL = ((2, 2), (3, 3), (4, 4), (8, 8))


def run_all(
    run: Run, request: Request, *, device: str, show: bool, workers: int = 0, ray: str | None = None
) -> dict[str, Any]:
    """Trains, searches, retrains winner and baselines, evaluates, exports and reports; skips finished stages.

    Returns:
        `run, results, rows, report, skipped`: `results` are search summaries, `rows` one table row per model.
    """
    steps = [train_supernet(run, device=device, show=show)]
    (found,) = search_run(run, [request], device=device, show=show, workers=workers, ray=ray)
    winner = run.result(found["key"])
    models = [user_result(run, "float"), *_uniform_baselines(run, winner, request.budgets), winner]
    for result in models:
        steps.append(retrain_result(result, device=device, show=show))
        for split in ("search-val", "test"):
            evaluate_result(result, split, device=device, show=show)
        form = natural_format(result)
        if not any(item["format"] == form and Path(item["path"]).exists() for item in exports(result)):
            export_result(result, form, show=show)
        write_card(result)
    report = write_report(run)
    return {
        "run": str(run.path),
        "results": [found],
        "rows": [table_row(result) for result in models],
        "report": report["path"],
        "skipped": [str(step.get("key", "supernet")) for step in steps if step["skipped"]],
    }


def _uniform_baselines(run: Run, winner: Result, budgets: tuple[Budget, ...]) -> list[Result]:
    """The cheapest uniform configuration that costs at least as much as the winner; else the most expensive one.

    Bits that the latency table lacks are skipped.
    """
    if run.spec.full_precision:
        return []
    metric = metric_of(run, budgets)
    target = run.table.config_total(read_bit_config(winner.bits_path), metric)
    costs = []
    for pair in sorted({*offered_pairs(run.space), *_USUAL}):
        with suppress(ConfigError):
            costs.append((run.table.config_total(run.space.uniform_config(*pair), metric), pair))
    if not costs:
        remark("no uniform bits to compare with: the latency table has none of them in every layer")
        return []
    costs.sort()
    _, (weight_bits, act_bits) = next((p for p in costs if p[0] >= target), costs[-1])
    return [user_result(run, f"w{weight_bits}a{act_bits}")]


def table_row(result: Result) -> dict[str, Any]:
    """One table row: name, costs and accuracy of a retrained model; costs are measured on its layers."""
    metrics = result.metrics()
    cost = measured(result)
    file = next((item for item in exports(result) if item["format"] == natural_format(result)), None)
    name = "searched" if result.searched else "float" if result.key == FLOAT_KEY else result.key.removeprefix("bits-")
    return {
        "model": name,
        "key": result.key,
        **{name: cost[name] for name in column_metrics()},
        "search_val_top1": metrics["search_val"]["top1"],
        "test_top1": metrics["test"]["top1"] if "test" in metrics else None,
        "file_bytes": file["bytes"] if file else None,
        "agreement": file["agreement"] if file else None,
    }
