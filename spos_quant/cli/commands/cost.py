"""`spos-quant cost`: costs of architectures and spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app


@app.command()
def cost(
    space: o.SpaceArg,
    uniform: Annotated[
        str | None, typer.Option("--uniform", metavar="w4a4", help="The backbone at uniform bits.")
    ] = None,
    bits: Annotated[
        str | None, typer.Option("--bits", metavar="BITS", help="A bit configuration file, or w4a4.")
    ] = None,
    arch: Annotated[str | None, typer.Option("--arch", metavar="0,3,1", help="Candidate indices.")] = None,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
) -> None:
    """Cost of an architecture, layer by layer, or of the space: cheapest, most expensive, number of architectures."""
    from spos_quant.stages.cost import architecture_cost, space_cost

    loaded = _space(space)
    if uniform is None and bits is None and arch is None:
        result = space_cost(loaded)
        if as_json:
            return show.emit(result)
        show.say(f"{result['space']}: {result['size']:,} architectures")
        return show.table(
            ("metric", "cheapest", "most expensive"),
            [(m, _exact(result["cheapest"][m]), _exact(result["dearest"][m])) for m in result["cheapest"]],
        )
    result = architecture_cost(loaded, uniform=uniform, bits=bits, arch=arch)
    return show.emit(result) if as_json else show.layers(result)


def _space(text: str) -> Any:
    """A search space by name or file, or the space of a run directory."""
    if Path(text).is_dir():
        from spos_quant.stages.open_run import open_existing

        return open_existing(text).space
    from spos_quant.backbones.build import load_space

    return load_space(text)


def _exact(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
