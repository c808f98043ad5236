"""How far sums of layer latencies are from whole networks, and the part of the latency that is not in layers."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, median
from typing import Any

from spos_quant.cost.latency import LatencyTable
from spos_quant.cost.metrics import LATENCY
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.space.search_space import SearchSpace


def with_rest(latency: LatencyTable, space: SearchSpace) -> LatencyTable:
    """The same table with `rest` fitted to its networks: the median of measured latency minus sum of layers."""
    rests = [whole - layers for whole, layers in _pairs(latency, space)]
    return replace(latency, rest=max(0, round(median(rests)))) if rests else latency


def sum_error(latency: LatencyTable, space: SearchSpace) -> dict[str, Any]:
    """Leave-one-out error of the sum: each network is predicted with the `rest` fitted to the others.

    Returns:
        `networks`, their number; `mean` and `largest`, relative errors, None for fewer than two networks.
    """
    pairs = _pairs(latency, space)
    if len(pairs) < 2:
        return {"networks": len(pairs), "mean": None, "largest": None}
    off = []
    for i, (whole, layers) in enumerate(pairs):
        rest = max(0, round(median(w - s for j, (w, s) in enumerate(pairs) if j != i)))
        off.append(abs(layers + rest - whole) / whole)
    return {"networks": len(pairs), "mean": fmean(off), "largest": max(off)}


def accuracy_note(latency: LatencyTable, space: SearchSpace) -> str:
    """One sentence for users on how accurate latencies by this table are."""
    found = sum_error(latency, space)
    if found["mean"] is None:
        accuracy = "no whole networks were measured, so its error is not known"
    else:
        accuracy = (
            f"of {found['networks']} whole networks it is off by {found['mean']:.1%} on average, "
            f"{found['largest']:.1%} at most"
        )
    return f"latency is a sum over layers ({latency.source}); {accuracy}"


def _pairs(latency: LatencyTable, space: SearchSpace) -> list[tuple[int, int]]:
    """Measured latency and sum of layer latencies, per network."""
    bare = CostTable(space, replace(latency, rest=0))
    try:
        architectures = [space.decode(text) for text in latency.networks]
    except SpaceError as error:
        raise ConfigError(f"latency table: a network of another space: {error}") from None
    sums = bare.totals(architectures, LATENCY).tolist() if architectures else []
    return list(zip(latency.networks.values(), sums, strict=True))
