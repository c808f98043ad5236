"""`spos-quant run`: all stages of the main job."""

from __future__ import annotations

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening
from spos_quant.errors import ConfigError


@app.command()
@o.with_budgets
def run(
    target: o.TargetArg,
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    *,
    budgets: o.Budgets,
    max_drop: o.MaxDrop = None,
    searcher: o.SearcherName = "evolution",
    workers: o.Workers = 0,
    ray: o.Ray = None,
    timeout: o.Timeout = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Runs all stages: train, search, retrain, evaluate, export, report."""
    spec = Opening(target, out, data, seed, assignments)
    requests = spec.requests(budgets, searcher=searcher, max_drop=max_drop, timeout=timeout, device=device, ray=ray)
    if len(requests) > 1:
        raise ConfigError(
            "`run` takes one budget; repeat it in: spos-quant search RUN --bitops-budget A --bitops-budget B"
        )
    if dry_run:
        return spec.estimate(requests, as_json, workers=workers)
    from spos_quant.stages.pipeline import run_all

    with spec.open() as opened:
        result = run_all(opened, requests[0], device=device, show=True, workers=workers, ray=ray)
    for name in result["skipped"]:
        show.remark(f"{name}: already finished, skipped")
    show.ended_early(result["results"])
    if as_json:
        return show.emit(result)
    show.models(result["rows"])
    show.say(f"bit configuration  {result['results'][0]['bits']}")
    show.say(f"report             {result['report']}")
