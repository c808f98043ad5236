"""`spos-quant train`: trains the supernet."""

from __future__ import annotations

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening


@app.command()
def train(
    target: o.TargetArg,
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    assignments: o.Set = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Trains the supernet into a run directory."""
    opening = Opening(target, out, data, seed, assignments)
    o.check_device(device)
    if dry_run:
        return opening.estimate([], as_json)
    from spos_quant.stages.train import train_supernet

    with opening.open() as opened:
        result = {"run": str(opened.path), **train_supernet(opened, device=device, show=True)}
    if result["skipped"]:
        show.remark("supernet: already finished, skipped")
    if as_json:
        return show.emit(result)
    paths = f"paths of sampler {opened.spec.train.path_sampler}"
    show.say(f"{result['supernet']}: {result['epoch']:.6g} epochs, loss {result['loss']:.4f} along {paths}")
