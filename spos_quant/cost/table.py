"""Costs of many architectures at once, as sums of terms that each depend on few axes (design decision 0001)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from spos_quant.cost.latency import LatencyTable
from spos_quant.cost.metrics import Formula, budget_metrics, metrics
from spos_quant.cost.rows import config_rows
from spos_quant.errors import ConfigError
from spos_quant.space.bit_config import BitConfig
from spos_quant.space.search_space import LayerSlot, SearchSpace
from spos_quant.space.tree import IntArray, Product, decompose


@dataclass(frozen=True)
class Term:
    """The cost of the layers that depend on the same few axes, as a function of these axes."""

    axes: tuple[int, ...]
    slots: tuple[LayerSlot, ...]


class CostTable:
    """The costs of a search space in every metric, from the shapes of its layers.

    Letters: `N` architectures, `A` axes, `T` terms, `M` metrics.

    Args:
        space: The space.
        latency: Latencies of its layers on a device; without it there is no metric `latency`.
    """

    def __init__(self, space: SearchSpace, latency: LatencyTable | None = None) -> None:
        self.space = space
        self.latency = latency
        groups: dict[tuple[int, ...], list[LayerSlot]] = {}
        for slot in space.layers:
            groups.setdefault(_axes_of(space, slot), []).append(slot)
        self.terms = tuple(Term(axes, tuple(slots)) for axes, slots in groups.items())
        self._tables: dict[str, list[IntArray]] = {}

    def formula(self, name: str) -> Formula:
        """The cost of a layer in a metric.

        Raises:
            ConfigError: the metric is unknown, or its values come from a table that the run does not have.
        """
        metric = metrics[name]
        if metric.formula is not None:
            return metric.formula
        if self.latency is None:
            raise ConfigError(
                f"no latencies of {self.space.name!r} are known; measure them with: spos-quant latency RUN, or give it "
                "a table of your own with --table"
            )
        return self.latency.cost

    def applies(self, name: str) -> bool:
        """Whether this space has values of a metric."""
        metric = metrics[name]
        if metric.formula is None:
            return self.latency is not None and not self.latency.missing(self.space)
        return metric.full_precision or not self.space.spec.full_precision

    @property
    def budget_metrics(self) -> tuple[str, ...]:
        """The metrics that may be bounded in this space."""
        return tuple(name for name in budget_metrics() if self.applies(name))

    @cached_property
    def tree(self) -> Product:
        """The decision tree of the axes, with the terms that each node determines."""
        return decompose(self.space.axes, (frozenset(term.axes) for term in self.terms))

    def tables(self, metric: str) -> list[IntArray]:
        """Per term, its cost for every combination of its axes' candidates: an array with one dimension per axis."""
        if metric not in self._tables:
            self._tables[metric] = [self._table(term, metric) for term in self.terms]
        return self._tables[metric]

    def _table(self, term: Term, metric: str) -> IntArray:
        function = self.formula(metric)
        sizes = [len(self.space.axes[a].candidates) for a in term.axes]
        table = np.zeros(sizes, dtype=np.int64)
        for combination in product(*map(range, sizes)):
            picked = dict(zip(term.axes, combination, strict=True))
            for slot in term.slots:
                table[combination] += _cost(self.space, slot, picked, function)
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
        """The cost of a bit configuration, which need not be in the space. Raises `SpaceError` as `config_rows`."""
        function = self.formula(metric)
        rows = config_rows(self.space, config)
        return self.constant(metric) + sum(function(r.shape, r.weight_bits, r.act_bits, r.counted) for r in rows)

    def config_costs(self, config: BitConfig) -> dict[str, int]:
        """The cost of a bit configuration in every metric of which the table knows all of its layers."""
        found = {}
        for name, _ in metrics.items():
            with suppress(ConfigError):  # a table of latencies that lacks one of the layers
                found[name] = self.config_total(config, name)
        return found

    def total(self, architecture: Sequence[int], metric: str = "bitops") -> int:
        """The cost of one architecture."""
        return int(self.totals([architecture], metric)[0])

    def term_value(self, term: int, metric: str, decided: dict[int, int]) -> int:
        """The cost of a term given `decided` (axis -> candidate); its other axes are irrelevant, so candidate 0."""
        axes = self.terms[term].axes
        return int(self.tables(metric)[term][tuple(decided.get(a, 0) for a in axes)])

    def leaf_costs(self, terms: Sequence[int], metric: str, decided: dict[int, int], axis: int) -> IntArray:
        """`[K]` summed cost of `terms` for each candidate of `axis`, given `decided` (axis -> candidate)."""
        n = len(self.space.axes[axis].candidates)
        result = np.zeros(n, dtype=np.int64)
        for t in terms:
            axes = self.terms[t].axes
            key: tuple[Any, ...] = tuple(slice(None) if a == axis else decided.get(a, 0) for a in axes)
            result += self.tables(metric)[t][key]
        return result

    def constant(self, metric: str) -> int:
        """The cost that no axis changes: that of MACs outside of layers, and the latency beyond the layers."""
        if metrics[metric].formula is None:
            return 0 if self.latency is None else self.latency.rest
        return metrics[metric].mac_outside * self.space.network_shapes.other_macs


def _axes_of(space: SearchSpace, slot: LayerSlot) -> tuple[int, ...]:
    axes = [slot.weight.axis, slot.act.axis]
    if slot.block is not None:
        block = space.blocks[slot.block]
        axes += [block.op.axis if slot.op is not None else None, block.width.axis if len(slot.shapes) > 1 else None]
    return tuple(sorted({a for a in axes if a is not None}))


def _cost(space: SearchSpace, slot: LayerSlot, picked: dict[int, int], function: Any) -> int:
    def index(axis: int | None) -> int:
        return 0 if axis is None else picked[axis]

    block = None if slot.block is None else space.blocks[slot.block]
    if block is not None and slot.op is not None and index(block.op.axis) != slot.op:
        return 0
    shape = slot.shapes[index(block.width.axis) if block is not None and len(slot.shapes) > 1 else 0]
    weight, act = slot.weight.values[index(slot.weight.axis)], slot.act.values[index(slot.act.axis)]
    return int(function(shape, weight, act, slot.quantized))
