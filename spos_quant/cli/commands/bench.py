"""`spos-quant bench`: bit configurations side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening, say_latency


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
    seeds: o.Seeds = 1,
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
    show.skipped_trainings(result["skipped"], len({row["key"] for row in result["rows"]}) * seeds)
    if as_json:
        return show.emit(result)
    show.bench(result["rows"])
    show.say(f"table   {result['csv']}")
    show.say(f"report  {result['report']}")
