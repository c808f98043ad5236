"""`spos-quant search`: searches the trained supernet."""

from __future__ import annotations

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening


@app.command()
def search(
    target: o.TargetArg,
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    bitops: o.Bitops = None,
    macs: o.Macs = None,
    params: o.Params = None,
    weight_bytes: o.WeightBytes = None,
    latency: o.Latency = None,
    max_drop: o.MaxDrop = None,
    searcher: o.SearcherName = "evolution",
    workers: o.Workers = 0,
    ray: o.Ray = None,
    timeout: o.Timeout = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Searches under a budget, which may be repeated; trains the supernet first if the run has none."""
    budgets = o.budget_options(bitops, macs, params, weight_bytes, latency)
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
            show.remark(f"{result['key']}: finished before, not made again")
    show.ended_early(results)
    if as_json:
        return show.emit({"run": str(opened.path), "results": results})
    timed = any(r.get("latency") for r in results)
    rows = []
    for r in results:
        took = [show.time(r.get("latency"))] if timed else []
        rows.append(
            (r["key"], show.percent(r["score"]), show.count(r["bitops"]), *took, str(r["evaluations"]), r["bits"])
        )
    columns = ("top-1 in the supernet", "BitOps", *(["latency"] if timed else []), "evaluations", "bit configuration")
    show.table(("result", *columns), rows)
