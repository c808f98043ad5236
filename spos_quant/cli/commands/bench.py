"""`spos-quant bench`: bit configurations side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening, say_latency


@app.command()
@o.with_budgets
def bench(
    target: o.TargetArg,
    bits: Annotated[
        str,
        typer.Option(
            "--bits",
            metavar="LIST",
            help="Comma-separated: w4a4, float, files, random:3 (samples within the budget), best, or a searcher.",
        ),
    ],
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    seeds: o.Seeds = 1,
    device: o.Device = "auto",
    assignments: o.Set = None,
    *,
    budgets: o.Budgets,
    workers: o.Workers = 0,
    ray: o.Ray = None,
    export: Annotated[bool, typer.Option(help="Export each model and time its file.")] = True,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Compares accuracy, BitOps, bytes and latency of bit configurations, all retrained by one recipe."""
    opening = Opening(target, out, data, seed, assignments)
    o.check_device(device)
    o.check_ray(ray)
    from spos_quant.stages.bench import bench_run, check, searches
    from spos_quant.stages.estimate import Trainings
    from spos_quant.stages.search import combined_budgets

    run = opening.plan.run
    limits = combined_budgets(run.table, budgets)
    say_latency(run.table, [budget for each in limits for budget in each])
    words = check(run, [text for text in bits.split(",") if text.strip()], limits, seeds)
    if dry_run:
        models = seeds * sum(word.count(len(limits)) for word in words)
        asked = searches(words, limits)
        return opening.estimate(asked, as_json, workers=workers, trainings=Trainings(models, run.spec.retrain))
    with opening.open() as opened:
        result = bench_run(
            opened, words, limits, seeds=seeds, device=device, show=True, workers=workers, ray=ray, export=export
        )
    show.skipped_trainings(result["skipped"], len({row["key"] for row in result["rows"]}) * seeds)
    if as_json:
        return show.emit(result)
    show.bench(result["rows"])
    show.say(f"table   {result['csv']}")
    show.say(f"report  {result['report']}")
