"""Report stage: everything known about a run as one HTML page, JSON and CSV."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from spos_quant.cost.metrics import formula_metrics
from spos_quant.cost.rows import config_rows, space_summary
from spos_quant.report import evaluations_csv, front_csv, render
from spos_quant.run_dir import read_artifact, write_json, write_text
from spos_quant.space.bit_config import read_bit_config
from spos_quant.space.uniform import uniform_architectures
from spos_quant.stages.evaluations import Evaluated, evaluated
from spos_quant.stages.export import exports
from spos_quant.stages.models import FLOAT_KEY
from spos_quant.stages.run import Result, Run
from spos_quant.stages.search import metric_of
from spos_quant.stages.sensitivity import known_sensitivities
from spos_quant.stages.train import history
from spos_quant.supernet.weights import read_weights_metadata

FORMAT = "spos-quant/report/1"


def write_report(run: Run) -> dict[str, Any]:
    """Writes `report.html`, `report.json`, `evaluations.csv` and `front.csv`; returns their paths and a summary."""
    found = evaluated(run)
    fronts = {name: found.front(name) for name in found.costs} if len(found) else {}
    data = gather(run, found, fronts)
    paths = {name: run.path / name for name in ("report.html", "report.json", "evaluations.csv", "front.csv")}
    write_text(paths["report.html"], render(data))
    write_json(paths["report.json"], data)
    on_front = fronts[data["metric"]][0] if fronts else []
    write_text(paths["evaluations.csv"], evaluations_csv(found.columns(data["metric"], on_front)))
    write_text(paths["front.csv"], front_csv(data))
    return {
        "path": str(paths["report.html"]),
        "json": str(paths["report.json"]),
        "csv": str(paths["evaluations.csv"]),
        "front_csv": str(paths["front.csv"]),
        "evaluations": len(found),
        "results": [result["key"] for result in data["results"]],
    }


def gather(run: Run, found: Evaluated, fronts: Mapping[str, tuple[list[int], dict[str, Any]]]) -> dict[str, Any]:
    """The content of the page as plain values; see `Evaluated.shown` for the subset of evaluations."""
    metric = metric_of(run)
    baselines = _baselines(run, found)
    index = {text: i for i, text in enumerate(found.texts)}
    winners = [index[text] for text in _winners(run) if text in index]
    always = [i for indices, _ in fronts.values() for i in indices]
    shown = found.shown([*always, *winners, *baselines.values()])
    position = {i: turn for turn, i in enumerate(shown)}
    shown_fronts = {name: {"front": [position[i] for i in front], **info} for name, (front, info) in fronts.items()}
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
        "evaluated": len(found),
        "evaluations": [found.row(i, metric) for i in shown],
        "front": shown_fronts[metric]["front"] if shown_fronts else [],
        "fronts": shown_fronts,
        "baselines": [
            {"name": name, "cost": int(found.costs[metric][i]), "score": float(found.scores[i])}
            for name, i in baselines.items()
        ],
        "results": [_result(run, result) for result in run.results()],
        "sensitivities": known_sensitivities(run),
        "ranking": run.ranking() or None,
        "bench": run.bench() or None,
        "history": history(run),
        "config": run.spec.model_dump(mode="json") | {"data": run.data_source, "seed": run.seed},
        "environment": read_artifact(run.path / "environment.json"),
        "commands": _commands(run),
    }


def _winners(run: Run) -> list[str]:
    return [result.search()["architecture"] for result in run.results() if result.searched]


def _baselines(run: Run, found: Evaluated) -> dict[str, int]:
    """The evaluated uniform configurations: name -> index of the evaluation."""
    texts = {run.space.encode(architecture): name for name, architecture in uniform_architectures(run.space).items()}
    return {texts[text]: i for i, text in enumerate(found.texts) if text in texts}


def _budgets(run: Run) -> list[dict[str, Any]]:
    found = []
    for result in run.results():
        if result.searched:
            search = result.search()
            for metric, limit in (search["budget"] or {}).items():
                text = search["budget_text"][metric]
                found.append({"key": result.key, "metric": metric, "limit": limit, "text": text})
    return found


def _result(run: Run, result: Result) -> dict[str, Any]:
    config = read_bit_config(result.bits_path)
    search = result.search()
    uniform = (
        result.key.startswith("bits-w") and len({(b.weight_bits, b.act_bits) for b in config.layers.values()}) <= 2
    )
    kind = "searched" if result.searched else "float" if result.key == FLOAT_KEY else "uniform" if uniform else "given"
    cost = space_summary(run.space, config_rows(run.space, config))
    metrics = result.metrics()
    return {
        "key": result.key,
        "kind": kind,
        "budget": search.get("budget"),
        "cost": run.table.config_costs(config) | {name: cost[name] for name in formula_metrics()},
        "layers": cost["layers"],
        "blocks": {name: choice.model_dump() for name, choice in config.blocks.items()},
        "supernet_top1": search.get("score"),
        "complete": search.get("complete"),
        "planned": search.get("planned"),
        "asked": search.get("evaluations"),
        "finalists": search.get("finalists", []),
        "search_val": metrics.get("search_val"),
        "test": metrics.get("test"),
        "history": read_weights_metadata(result.model_path)["history"] if result.model_path.exists() else [],
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
        {"what": "Compare the supernet with stand-alone training", "command": f"spos-quant rank {path} --n 30"},
        {"what": "Accuracy on the test split", "command": f"spos-quant evaluate {path}"},
        {"what": "Write the ONNX file", "command": f"spos-quant export {path} --format onnx-qcdq"},
        {"what": "Verify every exported file", "command": f"spos-quant verify {path}"},
        {"what": "Make this page again", "command": f"spos-quant report {path}"},
    ]
