"""`spos-quant evaluate`: accuracy of a retrained model."""

from __future__ import annotations

from typing import Annotated

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app


@app.command()
def evaluate(
    run_dir: o.RunArg,
    split: Annotated[str, typer.Option("--split", help="test or search-val.")] = "test",
    result_key: o.ResultKey = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Accuracy of the retrained model."""
    o.check_device(device)
    from spos_quant.stages.open_run import plan_existing

    plan = plan_existing(run_dir)
    picked = plan.run.pick(result_key)
    picked.require_model()
    from spos_quant.stages.evaluate import evaluate_result

    with plan.open():
        result = evaluate_result(picked, split, device=device, show=True)
    if as_json:
        return show.emit(result)
    show.say(
        f"{result['key']}: top-1 {show.percent(result['top1'])}, loss {result['loss']:.4f} "
        f"on {result['n']:,} images of {split}"
    )
