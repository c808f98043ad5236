"""`spos-quant report`: the report of a run."""

from __future__ import annotations

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app


@app.command()
def report(run_dir: o.RunArg, as_json: o.Json = False, verbose: o.Verbose = False) -> None:
    """Writes one offline HTML page, and the same figures as JSON and CSV."""
    from spos_quant.stages.open_run import open_existing
    from spos_quant.stages.report import write_report

    result = write_report(open_existing(run_dir))
    return show.emit(result) if as_json else show.say(result["path"])
