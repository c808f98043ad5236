"""Stage: everything a run knows, as one page, as JSON and as CSV."""

from __future__ import annotations

import shlex
from typing import Any

from spos_quant.cost.budget import BUDGETED, cost_range
from spos_quant.cost.rows import config_rows, summary
from spos_quant.report import evaluations_csv, front_csv, render
from spos_quant.run_dir import read_artifact, write_json, write_text
from spos_quant.searchers.base import Scored
from spos_quant.searchers.front import front, hypervolume
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages.evaluate import exports
from spos_quant.stages.models import FLOAT_KEY
from spos_quant.stages.run import Result, Run
from spos_quant.stages.search import asked_by, evaluations_of, metric_of, uniform_architectures
from spos_quant.stages.sensitivity import known_sensitivities
from spos_quant.stages.train import history
from spos_quant.supernet.weights import read_said

FORMAT = "spos-quant/report/1"


def write_report(run: Run) -> dict[str, Any]:
    """Writes `report.html`, `report.json`, `evaluations.csv` and `front.csv`; returns their paths and a summary."""
    data = gather(run)
    paths = {name: run.path / name for name in ("report.html", "report.json", "evaluations.csv", "front.csv")}
    write_text(paths["report.html"], render(data))
    write_json(paths["report.json"], data)
    write_text(paths["evaluations.csv"], evaluations_csv(data))
    write_text(paths["front.csv"], front_csv(data))
    return {
        "path": str(paths["report.html"]),
        "json": str(paths["report.json"]),
        "csv": str(paths["evaluations.csv"]),
        "front_csv": str(paths["front.csv"]),
        "evaluations": len(data["evaluations"]),
        "results": [result["key"] for result in data["results"]],
    }


def gather(run: Run) -> dict[str, Any]:
    """What the page shows, as plain values."""
    metric = metric_of(run)
    evaluations = list(evaluations_of(run))
    scored = {name: _scored(run, evaluations, name) for name in _metrics(run)}
    costs = [{name: of[i].cost for name, of in scored.items()} for i in range(len(evaluations))]
    fronts = {name: _front(run, name, of) for name, of in scored.items() if of}
    asked = asked_by(run)
    space = run.space
    return {
        "format": FORMAT,
        "space": {
            "name": space.name,
            "backbone": run.spec.backbone,
            "size": space.size,
            "input": list(run.spec.input),
            "classes": run.spec.classes,
        },
        "metric": metric,
        "budgets": _budgets(run),
        "evaluations": [_evaluation(run, s, asked) | {"costs": c} for s, c in zip(scored[metric], costs, strict=True)],
        "front": fronts[metric]["front"] if fronts else [],
        "fronts": fronts,
        "baselines": _baselines(run, scored[metric]),
        "results": [_result(run, result) for result in run.results()],
        "sensitivities": known_sensitivities(run),
        "ranking": run.ranking() or None,
        "bench": run.bench() or None,
        "history": history(run),
        "config": run.spec.model_dump(mode="json") | {"data": run.data_source, "seed": run.seed},
        "environment": read_artifact(run.path / "environment.json"),
        "commands": _commands(run),
    }


def _metrics(run: Run) -> list[str]:
    """The cost metrics that say something in a space."""
    return [name for name in BUDGETED if name != "bitops" or not run.spec.full_precision]


def _front(run: Run, metric: str, scored: list[Scored]) -> dict[str, Any]:
    """Which evaluations are on the front of a metric, and the share of the plane that they command.

    The reference point is the score of chance at the cost of the space's dearest architecture.
    """
    index = {one.architecture: i for i, one in enumerate(scored)}
    cost, chance = cost_range(run.table, metric)[1], 1 / run.spec.classes
    return {
        "front": [index[one.architecture] for one in front(scored)],
        "hypervolume": hypervolume(scored, cost=cost, score=chance),
        "reference": {"cost": cost, "score": chance},
    }


def _scored(run: Run, evaluations: list[Any], metric: str) -> list[Scored]:
    if not evaluations:
        return []
    costs = run.table.totals([e.architecture for e in evaluations], metric).tolist()
    return [Scored(e.architecture, e.score, e.loss, cost) for e, cost in zip(evaluations, costs, strict=True)]


def _evaluation(run: Run, scored: Scored, asked: dict[str, Any]) -> dict[str, Any]:
    text = run.space.encode(scored.architecture)
    searches = [key for key, log in asked.items() if text in log["architectures"]]
    generations = [asked[key]["generations"][asked[key]["architectures"].index(text)] for key in searches]
    return {
        "architecture": text,
        "describe": run.space.describe(scored.architecture),
        "generation": min(generations) if generations else None,
        "cost": scored.cost,
        "score": scored.score,
        "loss": scored.loss,
        "searches": searches,
    }


def _budgets(run: Run) -> list[dict[str, Any]]:
    found = []
    for result in run.results():
        if result.searched:
            search = result.search()
            for metric, limit in (search["budget"] or {}).items():
                text = search["budget_text"][metric]
                found.append({"key": result.key, "metric": metric, "limit": limit, "text": text})
    return found


def _baselines(run: Run, scored: list[Scored]) -> list[dict[str, Any]]:
    by_architecture = {s.architecture: s for s in scored}
    return [
        {"name": name, "cost": by_architecture[a].cost, "score": by_architecture[a].score}
        for name, a in uniform_architectures(run).items()
        if a in by_architecture
    ]


def _result(run: Run, result: Result) -> dict[str, Any]:
    config = read_bit_config(result.bits_path)
    search = result.search()
    uniform = (
        result.key.startswith("bits-w") and len({(b.weight_bits, b.act_bits) for b in config.layers.values()}) <= 2
    )
    kind = "searched" if result.searched else "float" if result.key == FLOAT_KEY else "uniform" if uniform else "given"
    cost = summary(
        config_rows(run.space, config),
        space=run.space.name,
        architecture=None,
        full_precision=run.spec.full_precision,
        other_macs=run.space.outline.other_macs,
    )
    metrics = result.metrics()
    return {
        "key": result.key,
        "kind": kind,
        "budget": search.get("budget"),
        "cost": {k: cost[k] for k in ("bitops", "bitops_total", "macs", "float_macs", "params", "weight_bytes")},
        "layers": cost["layers"],
        "blocks": {name: choice.model_dump() for name, choice in config.blocks.items()},
        "supernet_top1": search.get("score"),
        "complete": search.get("complete"),
        "planned": search.get("planned"),
        "search_val": metrics.get("search_val"),
        "test": metrics.get("test"),
        "history": read_said(result.model_path)["history"] if result.model_path.exists() else [],
        "export": exports(result),
    }


def _commands(run: Run) -> list[dict[str, str]]:
    path, within = shlex.quote(str(run.path)), f"--{metric_of(run)}-budget 35%"
    bits = "float,best" if run.spec.full_precision else "w2a2,w4a4,best"
    return [
        {"what": "Search again under another budget", "command": f"spos-quant search {path} {within}"},
        {"what": "Retrain a uniform baseline", "command": f"spos-quant retrain {path} --bits w4a4"},
        {
            "what": "Compare configurations side by side",
            "command": f"spos-quant bench {path} --bits {bits} {within}",
        },
        {"what": "Hold the supernet against training alone", "command": f"spos-quant rank {path} --n 30"},
        {"what": "Accuracy on the test split", "command": f"spos-quant evaluate {path}"},
        {"what": "Write the ONNX file", "command": f"spos-quant export {path} --format onnx-qcdq"},
        {"what": "Measure every file from outside", "command": f"spos-quant verify {path}"},
        {"what": "Make this page again", "command": f"spos-quant report {path}"},
    ]
