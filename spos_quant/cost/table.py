"""Costs of many architectures at once: sums of terms, each of few axes (design decision 0001)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from spos_quant.cost.latency import LatencyTable
from spos_quant.cost.metrics import Metric, metrics, outside_layers
from spos_quant.cost.rows import config_rows
from spos_quant.cost.units import LATENCY
from spos_quant.errors import ConfigError
from spos_quant.space.bit_config import BitConfig
from spos_quant.space.search_space import LayerSlot, SearchSpace
from spos_quant.space.tree import IntArray, Product, decompose


@dataclass(frozen=True)
class Term:
    """What one layer adds to the cost, as a function of the few axes that it depends on."""

    axes: tuple[int, ...]
    places: tuple[LayerSlot, ...]


class CostTable:
    """The costs of a search space in every metric, from the shapes of its layers.

    Letters: `N` architectures, `A` axes, `T` terms, `M` metrics.

    Args:
        space: The space.
        latency: What its layers take on some device; without it there is no metric `latency`.
    """

    def __init__(self, space: SearchSpace, latency: LatencyTable | None = None) -> None:
        self.space = space
        self.latency = latency
        groups: dict[tuple[int, ...], list[LayerSlot]] = {}
        for place in space.layers:
            groups.setdefault(_axes_of(space, place), []).append(place)
        self.terms = tuple(Term(axes, tuple(places)) for axes, places in groups.items())
        self._tables: dict[str, list[IntArray]] = {}

    def metric(self, name: str) -> Metric:
        """What a layer contributes to a metric, registered or measured.

        Raises:
            ConfigError: no such metric, or no table of latencies.
        """
        if name != LATENCY:
            return metrics[name]
        if self.latency is None:
            raise ConfigError(
                f"no latencies of {self.space.name!r} are known; measure them with: spos-quant latency RUN, or give it "
                "a table of your own with --table"
            )
        return self.latency.cost

    @cached_property
    def tree(self) -> Product:
        """The axes as a tree whose leaves fix every term."""
        return decompose(self.space.axes, (frozenset(term.axes) for term in self.terms))

    def tables(self, metric: str) -> list[IntArray]:
        """Per term, its cost for every combination of its axes' candidates: an array with one dimension per axis."""
        if metric not in self._tables:
            self._tables[metric] = [self._table(term, metric) for term in self.terms]
        return self._tables[metric]

    def _table(self, term: Term, metric: str) -> IntArray:
        function = self.metric(metric)
        sizes = [len(self.space.axes[a].candidates) for a in term.axes]
        table = np.zeros(sizes, dtype=np.int64)
        for combination in product(*map(range, sizes)):
            picked = dict(zip(term.axes, combination, strict=True))
            for place in term.places:
                table[combination] += _cost(self.space, place, picked, function)
        return table

    def totals(self, architectures: Sequence[Sequence[int]] | IntArray, metric: str = "bitops") -> IntArray:
        """`[N]` costs of `[N, A]` architectures, one gather per term."""
        indices = np.asarray(architectures, dtype=np.int64).reshape(len(architectures), len(self.space.axes))
        result = np.full(len(indices), self.constant(metric), dtype=np.int64)
        for term, table in zip(self.terms, self.tables(metric), strict=True):
            if term.axes:
                flat = np.ravel_multi_index(tuple(indices[:, a] for a in term.axes), table.shape)
                result += table.reshape(-1)[flat]
            else:
                result += table
        return result

    def config_total(self, config: BitConfig, metric: str) -> int:
        """The cost of a bit configuration, candidate of the space or not. Raises `SpaceError` as `config_rows`."""
        function = self.metric(metric)
        rows = config_rows(self.space, config)
        return self.constant(metric) + sum(function(r.shape, r.weight_bits, r.act_bits, r.counted) for r in rows)

    def total(self, architecture: Sequence[int], metric: str = "bitops") -> int:
        """The cost of one architecture."""
        return int(self.totals([architecture], metric)[0])

    def term_value(self, term: int, metric: str, decided: dict[int, int]) -> int:
        """A term once `decided` (axis -> candidate) fixes it; axes that do not matter count as candidate 0."""
        axes = self.terms[term].axes
        return int(self.tables(metric)[term][tuple(decided.get(a, 0) for a in axes)])

    def leaf_costs(self, terms: Sequence[int], metric: str, decided: dict[int, int], axis: int) -> IntArray:
        """`[K]` summed cost of `terms` for each candidate of `axis`, the rest being decided."""
        n = len(self.space.axes[axis].candidates)
        result = np.zeros(n, dtype=np.int64)
        for t in terms:
            axes = self.terms[t].axes
            key: tuple[Any, ...] = tuple(slice(None) if a == axis else decided.get(a, 0) for a in axes)
            result += self.tables(metric)[t][key]
        return result

    def constant(self, metric: str) -> int:
        """What no axis changes and no term holds: multiply-adds outside of layers, and the time that these take."""
        if metric == LATENCY:
            return 0 if self.latency is None else self.latency.rest
        return outside_layers(metric, self.space.network_shapes.other_macs)


def _axes_of(space: SearchSpace, place: LayerSlot) -> tuple[int, ...]:
    axes = [place.weight.axis, place.act.axis]
    if place.block is not None:
        block = space.blocks[place.block]
        axes += [block.op.axis if place.op is not None else None, block.width.axis if len(place.shapes) > 1 else None]
    return tuple(sorted({a for a in axes if a is not None}))


def _cost(space: SearchSpace, place: LayerSlot, picked: dict[int, int], function: Any) -> int:
    def index(axis: int | None) -> int:
        return 0 if axis is None else picked[axis]

    block = None if place.block is None else space.blocks[place.block]
    if block is not None and place.op is not None and index(block.op.axis) != place.op:
        return 0
    shape = place.shapes[index(block.width.axis) if block is not None and len(place.shapes) > 1 else 0]
    weight, act = place.weight.values[index(place.weight.axis)], place.act.values[index(place.act.axis)]
    return int(function(shape, weight, act, place.quantized))
