"""`spos-quant sensitivity`: loss increase per layer at fewer bits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening


@app.command()
def sensitivity(
    target: o.TargetArg,
    estimate: Annotated[
        str, typer.Option("--estimate", help="measured: from evaluations; gradient: from gradients, bits only.")
    ] = "measured",
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    workers: o.Workers = 0,
    ray: o.Ray = None,
    timeout: o.Timeout = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Loss increase per axis and candidate, stored in the run; trains the supernet first if the run has none."""
    from spos_quant.stages.estimate import estimate_sensitivity
    from spos_quant.stages.search import parse_timeout
    from spos_quant.stages.sensitivity import check_estimate, sensitivity_run
    from spos_quant.stages.train import train_supernet

    check_estimate(estimate)
    seconds = None if timeout is None else parse_timeout(timeout)
    opening = Opening(target, out, data, seed, assignments)
    o.check_device(device)
    o.check_ray(ray)
    if dry_run:
        return opening.show_estimate(estimate_sensitivity(opening.plan.run, estimate, workers=workers), as_json)
    with opening.open() as opened:
        train_supernet(opened, device=device, show=True)
        result = sensitivity_run(
            opened, estimate=estimate, device=device, show=True, workers=workers, ray=ray, timeout=seconds
        )
    if result["skipped"]:
        show.remark(f"{estimate} sensitivities: already finished, skipped")
    if not result["complete"]:
        show.remark("the time limit ended the evaluations early; repeat the command to resume")
    if as_json:
        return show.emit({"run": str(opened.path), **result})
    show.table(("axis", "from", "to", "loss increase", "top-1 decrease"), [_row(row) for row in result["rows"]])
    if result["path"]:
        show.say(f"sensitivities  {result['path']}")


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    from spos_quant.report.describe import candidate_text

    loss = "-" if row["loss"] is None else f"{row['loss']:+.4f}"
    score = "-" if row["score"] is None else f"{100 * row['score']:+.2f} points"
    kind = row["kind"]
    return (row["axis"], candidate_text(kind, row["from"]), candidate_text(kind, row["candidate"]), loss, score)
