"""`spos-quant rank`: the supernet's order beside that of training alone."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening


@app.command()
def rank(
    run_dir: o.RunArg,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Architectures to train alone.")] = 30,
    seeds: o.Seeds = 1,
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
    show.skipped_trainings(result["skipped"], n * seeds)
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
