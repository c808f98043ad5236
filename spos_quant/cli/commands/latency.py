"""`spos-quant latency`: a table of measured layer latencies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cli.open_run import Opening
from spos_quant.cost.units import duration
from spos_quant.errors import ConfigError


@app.command()
def latency(
    target: o.TargetArg,
    out: o.Out = None,
    data: o.Data = None,
    seed: o.Seed = None,
    assignments: o.Set = None,
    table: Annotated[
        Path | None, typer.Option("--table", metavar="FILE", help="Uses this table instead of measuring one.")
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option("--template", metavar="FILE", help="Only writes a table with empty times, to fill in."),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=1, max=1024, help="CPU threads of onnxruntime.")
    ] = 1,
    networks: Annotated[
        int, typer.Option("--n", metavar="N", help="Whole networks to compare the sum of layers with.")
    ] = 10,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Times every layer at all its bits in onnxruntime for --latency-budget, or uses your own table."""
    if table is not None and template is not None:
        raise ConfigError("give either --table or --template, not both")
    opening = Opening(target, out, data, seed, assignments)
    from spos_quant.stages import latency as stage

    if template is not None:
        rows = stage.template(opening.plan.run.space, template)
        return show.emit({"path": str(template), "rows": rows}) if as_json else show.say(f"{template}: {rows:,} rows")
    with opening.open() as opened:
        if table is not None:
            result = stage.bring(opened, table)
        else:
            result = stage.latency_run(opened, threads=threads, networks=networks, show=True)
    show.emit(result) if as_json else _say(result)


def _say(result: dict[str, Any]) -> None:
    if not result["measured"]:
        show.remark("nothing was left to measure")
    show.say(f"{result['path']}: {result['layers']:,} layers, {result['networks']:,} whole networks")
    show.say(f"architectures take {duration(result['cheapest'])} to {duration(result['dearest'])}")
    show.say(result["accuracy_note"])
