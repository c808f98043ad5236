"""`spos-quant verify`: measures exported files."""

from __future__ import annotations

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app


@app.command()
def verify(
    run_dir: o.RunArg, result_key: o.ResultKey = None, as_json: o.Json = False, verbose: o.Verbose = False
) -> None:
    """Measures every exported file from the file alone: accuracy, agreement, bytes, BitOps, budget kept."""
    from spos_quant.stages.open_run import open_existing

    picked = open_existing(run_dir).pick(result_key)
    picked.require_model()
    from spos_quant.stages.verify import verify_result

    result = verify_result(picked, show=True)
    if as_json:
        show.emit(result)
    else:
        show.verified(result)
    if not result["ok"]:
        show.remark("a file differs from the model or breaks the budget")
        raise typer.Exit(1)
