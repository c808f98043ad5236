"""`spos-quant search`: searches the trained supernet."""

from __future__ import annotations

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening
from spos_quant.cost.metrics import metrics


@app.command()
@o.with_budgets
def search(
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
    """Searches within each given budget; trains the supernet first if the run has none."""
    opening = Opening(target, out, data, seed, assignments)
    requests = opening.requests(budgets, searcher=searcher, max_drop=max_drop, timeout=timeout, device=device, ray=ray)
    if dry_run:
        return opening.estimate(requests, as_json, workers=workers)
    from spos_quant.stages.search import search_run
    from spos_quant.stages.train import train_supernet

    with opening.open() as opened:
        train_supernet(opened, device=device, show=True)
        results = search_run(opened, requests, device=device, show=True, workers=workers, ray=ray)
    for result in results:
        if result["skipped"]:
            show.remark(f"{result['key']}: already finished, skipped")
    show.ended_early(results)
    if as_json:
        return show.emit({"run": str(opened.path), "results": results})
    bounded = {name: metrics[name] for r in results for name in ("bitops", *(r["budget"] or ()))}
    rows = []
    for r in results:
        costs = [show.amount(metric, r["costs"].get(name)) for name, metric in bounded.items()]
        rows.append((r["key"], show.percent(r["score"]), *costs, str(r["evaluations"]), r["bits"]))
    labels = (metric.label for metric in bounded.values())
    show.table(("result", "top-1 in the supernet", *labels, "evaluations", "bit configuration"), rows)
