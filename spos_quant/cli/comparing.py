"""Commands that compare: the supernet's ranking with training alone, and bit configurations with each other."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.commands import app
from spos_quant.cli.opening import Opening, say_latency

Seeds = Annotated[
    int, typer.Option("--seeds", metavar="N", min=1, help="Trainings of each, with the run's seed and those after it.")
]


@app.command()
def rank(
    run_dir: o.RunArg,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Architectures to train alone.")] = 30,
    seeds: Seeds = 1,
    band: Annotated[
        str | None,
        typer.Option("--band", metavar="LOW:HIGH", help="Costs to draw from: 2M:2.2M, w2a2:w3a3, 30%:35% [all]."),
    ] = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    workers: o.Workers = 0,
    ray: o.Ray = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Rank correlation between supernet and stand-alone training; `--set rank.epochs=5` makes the latter shorter."""
    o.check_device(device)
    o.check_ray(ray)
    opening = Opening(run_dir, None, None, None, assignments, existing=True)
    from spos_quant.stages.estimate import Trainings
    from spos_quant.stages.rank import check, rank_run, read_band

    run = opening.plan.run
    check(n, seeds)
    costs = read_band(run, band)
    if dry_run:
        return opening.estimate([], as_json, workers=workers, trainings=Trainings(n * seeds, run.spec.ranked, judged=n))
    with opening.open() as opened:
        result = rank_run(opened, n=n, seeds=seeds, band=costs, device=device, show=True, workers=workers, ray=ray)
    _skipped(result["skipped"], n * seeds)
    if as_json:
        return show.emit(result)
    show.table(
        ("judge", "Kendall tau", "95 % interval", "Spearman", "tau within strata", "tau beyond cost"),
        [_judge(name, found) for name, found in _judges(result)],
    )
    for k, lost in result["judges"]["top1"]["regret"].items():
        show.say(f"trained alone, the best of the supernet's first {k}: {100 * lost:.2f} points below the best of all")
    show.say(f"ranking  {result['path']}")
    show.say(f"report   {result['report']}")


def _judges(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    from spos_quant.report.text import JUDGES

    judges = [(title, result["judges"][key]) for key, title in JUDGES.items() if key in result["judges"]]
    judges.append(("cost alone", result["by_cost"]))
    return judges if result["ceiling"] is None else [*judges, ("another seed of training alone", result["ceiling"])]


def _judge(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    spread = found.get("interval")
    keys = ("spearman", "within_strata", "residual")
    between = "-" if spread is None else f"{spread[0]:.2f} to {spread[1]:.2f}"
    return (name, _two(found.get("kendall")), between, *(_two(found.get(key)) for key in keys))


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@app.command()
def bench(
    target: o.TargetArg,
    bits: Annotated[
        str,
        typer.Option(
            "--bits",
            metavar="LIST",
            help="Between commas: w4a4, float, files, random:3 (draws within the budget), best or a searcher's name.",
        ),
    ],
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    seeds: Seeds = 1,
    device: o.Device = "auto",
    assignments: o.Set = None,
    bitops: o.Bitops = None,
    macs: o.Macs = None,
    params: o.Params = None,
    weight_bytes: o.WeightBytes = None,
    latency: o.Latency = None,
    workers: o.Workers = 0,
    ray: o.Ray = None,
    export: Annotated[bool, typer.Option(help="Whether each model is exported and its file timed.")] = True,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Accuracy, BitOps, bytes and latency of bit configurations side by side, retrained by one recipe."""
    opening = Opening(target, out, data, seed, assignments)
    o.check_device(device)
    o.check_ray(ray)
    from spos_quant.stages.bench import bench_run, check, searches
    from spos_quant.stages.estimate import Trainings
    from spos_quant.stages.search import combined_budgets

    run = opening.plan.run
    budgets = combined_budgets(run.table, o.budget_options(bitops, macs, params, weight_bytes, latency))
    say_latency(run.table, [budget for each in budgets for budget in each])
    words = check(run, [text for text in bits.split(",") if text.strip()], budgets, seeds)
    if dry_run:
        models = seeds * sum(word.count(len(budgets)) for word in words)
        asked = searches(words, budgets)
        return opening.estimate(asked, as_json, workers=workers, trainings=Trainings(models, run.spec.retrain))
    with opening.open() as opened:
        result = bench_run(
            opened, words, budgets, seeds=seeds, device=device, show=True, workers=workers, ray=ray, export=export
        )
    _skipped(result["skipped"], len({row["key"] for row in result["rows"]}) * seeds)
    if as_json:
        return show.emit(result)
    show.bench(result["rows"])
    show.say(f"table   {result['csv']}")
    show.say(f"report  {result['report']}")


def _skipped(places: list[str], of: int) -> None:
    if places:
        show.remark(f"{len(places)} of {of} trainings: finished before, not made again")
