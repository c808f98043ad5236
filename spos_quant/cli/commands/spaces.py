"""`spos-quant spaces`: the built-in search spaces."""

from __future__ import annotations

from spos_quant.cli import options as o
from spos_quant.cli import show
from spos_quant.cli.app import app
from spos_quant.cost.units import human


@app.command()
def spaces(as_json: o.Json = False, verbose: o.Verbose = False) -> None:
    """Lists the built-in search spaces."""
    from spos_quant.stages.spaces import all_spaces

    found = all_spaces()
    if as_json:
        return show.emit(found)
    rows = []
    for item in found:
        metric = "macs" if item["cheapest"]["bitops"] is None else "bitops"
        low, high = item["cheapest"][metric], item["dearest"][metric]
        unit = "MACs" if metric == "macs" else "BitOps"
        size = f"{item['size']:,}" if item["size"] < 10**21 else f"{item['size']:.3g}"
        rows.append((item["name"], item["backbone"], size, f"{human(low)} to {human(high)} {unit}"))
    show.table(("space", "backbone", "architectures", "cost"), rows)
    show.say("sizes with e+ are rounded; --json and `spos-quant cost SPACE` print every digit")
