"""`spos-quant rank`: the ranking by the supernet against the ranking by stand-alone training."""

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
    n: Annotated[int, typer.Option("--n", metavar="N", help="Architectures to train stand-alone.")] = 30,
    seeds: o.Seeds = 1,
    band: Annotated[
        str | None,
        typer.Option(
            "--band", metavar="LOW:HIGH", help="Range of costs to sample from: 2M:2.2M, w2a2:w3a3, 30%:35% [all]."
        ),
    ] = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    workers: o.Workers = 0,
    ray: o.Ray = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Rank correlation between supernet and stand-alone training; `--set rank.epochs=5` shortens the latter."""
    o.check_device(device)
    o.check_ray(ray)
    opening = Opening(run_dir, None, None, None, assignments, existing=True)
    from spos_quant.stages.estimate import Trainings
    from spos_quant.stages.rank import check, parse_cost_range, rank_run

    run = opening.plan.run
    check(n, seeds)
    costs = parse_cost_range(run, band)
    if dry_run:
        return opening.estimate([], as_json, workers=workers, trainings=Trainings(n * seeds, run.spec.ranked, judged=n))
    with opening.open() as opened:
        result = rank_run(opened, n=n, seeds=seeds, band=costs, device=device, show=True, workers=workers, ray=ray)
    show.skipped_trainings(result["skipped"], n * seeds)
    if as_json:
        return show.emit(result)
    show.table(
        ("ranked by", "Kendall tau", "95 % interval", "Spearman", "tau within strata", "tau beyond cost"),
        [_row(name, found) for name, found in _rankings(result)],
    )
    for k, regret in result["judges"]["top1"]["regret"].items():
        show.say(f"regret of the supernet's first {k}: {100 * regret:.2f} points of stand-alone accuracy")
    show.say(f"ranking  {result['path']}")
    show.say(f"report   {result['report']}")


def _rankings(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    from spos_quant.report.text import JUDGES

    found = [(title, result["judges"][key]) for key, title in JUDGES.items() if key in result["judges"]]
    found.append(("cost alone", result["by_cost"]))
    return found if result["ceiling"] is None else [*found, ("another seed of stand-alone training", result["ceiling"])]


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    interval = found.get("interval")
    keys = ("spearman", "within_strata", "residual")
    shown = "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
    return (name, _decimal(found.get("kendall")), shown, *(_decimal(found.get(key)) for key in keys))


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
