"""Builds a `SearchSpace`, its axes and the slots that use them, from a `SpaceSpec` and network shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from spos_quant.errors import SpaceError, near
from spos_quant.space.search_space import AxisReference, BlockSlot, LayerSlot, SearchSpace
from spos_quant.space.shapes import BlockShapes, LayerShapes, NetworkShapes
from spos_quant.space.spec import AxesSpec, SpaceSpec
from spos_quant.space.tree import Axis, Use

_WORDS = ("first", "last")


def block_axes(spec: SpaceSpec, block: str) -> AxesSpec:
    """The candidates of one choice block: the space's, updated by every matching override in order."""
    axes = spec.axes
    for pattern, override in spec.overrides.items():
        if fnmatchcase(block, pattern):
            axes = axes.updated(override)
    return axes


def _names(layer: LayerShapes) -> tuple[str, ...]:
    """The names by which a pattern can match a layer."""
    return tuple(name for name in (layer.name, layer.block, layer.unit) if name)


def _layer_axes(spec: SpaceSpec, layer: LayerShapes) -> AxesSpec:
    axes = spec.axes
    for pattern, override in spec.overrides.items():
        if any(fnmatchcase(name, pattern) for name in _names(layer)):
            axes = axes.updated(override)
    return axes


def resolve(spec: SpaceSpec, network_shapes: NetworkShapes) -> SearchSpace:
    """The search space of `spec` over a network with these shapes.

    Raises:
        SpaceError: a pattern matches nothing, an operator or width is given to a layer, or layers that must share an
            axis have different candidates.
    """
    _check_patterns(spec, network_shapes)
    kept = kept_float(spec, network_shapes.layers, network_shapes.float_ends)
    builder = _AxisBuilder()
    _check_shared_axes(spec, network_shapes.blocks)
    blocks = tuple(_block_slot(builder, block, network_shapes) for block in network_shapes.blocks)
    index = {block.name: i for i, block in enumerate(network_shapes.blocks)}
    bits = _BitAxes(spec, network_shapes, kept).reads(builder)
    layers = []
    for layer in network_shapes.layers:
        quantized = layer.name not in kept and not spec.full_precision
        weight, act = bits[layer.name] if quantized else (AxisReference(None, (None,)), AxisReference(None, (None,)))
        layers.append(
            LayerSlot(
                layer.name,
                layer.kind,
                None if layer.block is None else index[layer.block],
                layer.op,
                quantized,
                weight,
                act,
                layer.shapes,
                layer.reads,
            )
        )
    reference_kept = kept_float(spec, network_shapes.reference, network_shapes.float_ends)
    default = {layer.name: layer.name not in reference_kept for layer in network_shapes.reference}
    axes, blocks, slots = builder.finish(blocks, tuple(layers))
    return SearchSpace(spec, network_shapes, axes, blocks, slots, default)


def kept_float(spec: SpaceSpec, layers: Sequence[LayerShapes], float_ends: Sequence[str] = ()) -> frozenset[str]:
    """Names of the layers that `keep_float` matches.

    If `first` or `last` is in `float_ends`, that end is float anyway, and the word matches no other layer.
    """
    kept = set()
    for pattern in spec.keep_float:
        if pattern in float_ends:
            continue
        if pattern in _WORDS:
            kept.add(layers[0 if pattern == "first" else -1].name)
        else:
            kept |= {x.name for x in layers if any(fnmatchcase(name, pattern) for name in _names(x))}
    return frozenset(kept)


def _check_patterns(spec: SpaceSpec, network_shapes: NetworkShapes) -> None:
    blocks = [block.name for block in network_shapes.blocks]
    names = list(
        dict.fromkeys([*blocks, *(n for x in (*network_shapes.layers, *network_shapes.reference) for n in _names(x))])
    )
    for key, pattern in (
        *(("overrides", p) for p in spec.overrides),
        *(("keep_float", p) for p in spec.keep_float if p not in _WORDS),
        *(("groups", p) for group in spec.groups for p in group),
    ):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SpaceError(
                f"{spec.name}: {key}: {pattern!r} matches no choice block or layer"
                f"{near(pattern, [*names, *_WORDS] if key == 'keep_float' else names)}"
            )
    for pattern, override in spec.overrides.items():
        if (override.op or override.width) and not any(fnmatchcase(name, pattern) for name in blocks):
            raise SpaceError(
                f"{spec.name}: overrides[{pattern!r}]: operators and widths belong to choice blocks"
                f"{near(pattern, blocks)}"
            )


@dataclass
class _AxisBuilder:
    """Collects axes and the references to them."""

    axes: list[Axis] = field(default_factory=list)
    _index: dict[str, int] = field(default_factory=dict)

    def read(self, owner: str, kind: str, candidates: tuple[Any, ...]) -> AxisReference:
        """A reference to the owner's axis of this kind, created if new; a constant if there is one candidate."""
        if len(candidates) == 1:
            return AxisReference(None, candidates)
        name = f"{owner}.{kind}"
        if name not in self._index:
            self._index[name] = len(self.axes)
            self.axes.append(Axis(name, kind, candidates))
        return AxisReference(self._index[name], candidates)

    def finish(
        self, blocks: tuple[BlockSlot, ...], layers: tuple[LayerSlot, ...]
    ) -> tuple[tuple[Axis, ...], tuple[BlockSlot, ...], tuple[LayerSlot, ...]]:
        """Axes in order of the blocks, each with the conditions under which a slot uses it, and renumbered slots."""
        uses: dict[int, list[Use]] = {i: [] for i in range(len(self.axes))}
        for block in blocks:
            if block.op.axis is not None:
                uses[block.op.axis].append(())
        for layer in layers:
            slot = None if layer.block is None else blocks[layer.block]
            condition: Use = ()
            if slot is not None and slot.op.axis is not None and layer.op is not None:
                condition = ((slot.op.axis, frozenset({layer.op})),)
            reads = [layer.weight, layer.act]
            if slot is not None and len(layer.shapes) > 1:
                reads.append(slot.width)
            for read in reads:
                if read.axis is not None:
                    uses[read.axis].append(condition)
        return self._in_order(uses, blocks, layers)

    def _in_order(
        self, uses: dict[int, list[Use]], blocks: tuple[BlockSlot, ...], layers: tuple[LayerSlot, ...]
    ) -> tuple[tuple[Axis, ...], tuple[BlockSlot, ...], tuple[LayerSlot, ...]]:
        order: list[int] = []
        for block_index, block in enumerate(blocks):
            reads = [block.op, block.width]
            for layer in layers:
                if layer.block == block_index:
                    reads += [layer.weight, layer.act]
            order += [r.axis for r in reads if r.axis is not None]
        order += [r.axis for layer in layers for r in (layer.weight, layer.act) if r.axis is not None]
        # Axes that nothing uses are dropped, for example widths if no operator has any.
        order = [a for a in dict.fromkeys(order) if uses[a]]
        new = {old: i for i, old in enumerate(order)}

        def renumber(read: AxisReference) -> AxisReference:
            if read.axis is None:
                return read
            return (
                AxisReference(new[read.axis], read.values) if read.axis in new else AxisReference(None, read.values[:1])
            )

        def always(use: Use) -> bool:
            return all(len(allowed) == len(self.axes[order[a]].candidates) for a, allowed in use)

        def conditions(old: int) -> tuple[Use, ...]:
            found = _merge(tuple((new[a], allowed) for a, allowed in use) for use in uses[old])
            return ((),) if any(map(always, found)) else found

        axes = tuple(Axis(self.axes[o].name, self.axes[o].kind, self.axes[o].candidates, conditions(o)) for o in order)
        blocks = tuple(BlockSlot(b.name, renumber(b.op), renumber(b.width)) for b in blocks)
        slots = tuple(
            LayerSlot(
                x.name, x.kind, x.block, x.op, x.quantized, renumber(x.weight), renumber(x.act), x.shapes, x.reads
            )
            for x in layers
        )
        return axes, blocks, slots


def _merge(uses: Iterable[Use]) -> tuple[Use, ...]:
    """Merges conditions on the same single axis into one that allows the union of their candidates."""
    single: dict[int, frozenset[int]] = {}
    other: list[Use] = []
    for use in uses:
        if len(use) == 1:
            single[use[0][0]] = single.get(use[0][0], frozenset()) | use[0][1]
        else:
            other.append(use)
    return (*dict.fromkeys(other), *(((axis, allowed),) for axis, allowed in sorted(single.items())))


def _check_shared_axes(spec: SpaceSpec, blocks: Iterable[BlockShapes]) -> None:
    """Raises `SpaceError` if blocks that share an axis have different candidates."""
    first: dict[str, BlockShapes] = {}
    for block in blocks:
        other = first.setdefault(block.axis, block)
        for ours, theirs in ((block.ops, other.ops), (block.widths, other.widths)):
            if ours != theirs and max(len(ours), len(theirs)) > 1:
                raise SpaceError(
                    f"{spec.name}: blocks {other.name!r} and {block.name!r} read the same axes, so they need the same "
                    "operators and widths; override both alike"
                )


def _block_slot(builder: _AxisBuilder, block: BlockShapes, network_shapes: NetworkShapes) -> BlockSlot:
    varies = any(len(layer.shapes) > 1 for layer in network_shapes.layers if layer.block == block.name)
    op = builder.read(block.axis, "op", block.ops)
    constant = (1.0,) if 1.0 in block.widths else block.widths[:1]
    width = builder.read(block.axis, "width", block.widths) if varies else AxisReference(None, constant)
    return BlockSlot(block.name, op, width)


class _BitAxes:
    """Decides which layers share a bits axis: those of a block, those that read the same tensor, those of a group."""

    def __init__(self, spec: SpaceSpec, network_shapes: NetworkShapes, kept: frozenset[str]) -> None:
        self.spec = spec
        self.layers = [x for x in network_shapes.layers if x.name not in kept] if not spec.full_precision else []
        self.given = {x.name: _layer_axes(spec, x) for x in self.layers}
        for name, axes in self.given.items():
            if axes.bits is None and axes.weight_bits is None:
                raise SpaceError(
                    f"{spec.name}: layer {name!r} is given no bits; "
                    "give axes.bits, an override, or name it in keep_float"
                )

    def reads(self, builder: _AxisBuilder) -> dict[str, tuple[AxisReference, AxisReference]]:
        """Per layer name, the references to the axes of its weight bits and activation bits."""
        weight_key, act_key = self._keys("weight"), self._keys("act")
        result: dict[str, tuple[AxisReference, AxisReference]] = {}
        for layer in self.layers:
            axes = self.given[layer.name]
            if axes.bits is not None:
                pairs = builder.read(act_key[layer.name], "bits", axes.bits)
                weight = AxisReference(pairs.axis, tuple(pair[0] for pair in pairs.values))
                act = AxisReference(pairs.axis, tuple(pair[1] for pair in pairs.values))
            else:
                assert axes.weight_bits is not None
                assert axes.act_bits is not None
                weight = builder.read(weight_key[layer.name], "weight_bits", axes.weight_bits)
                act = builder.read(act_key[layer.name], "act_bits", axes.act_bits)
            result[layer.name] = (weight, act)
        return result

    def _keys(self, kind: str) -> dict[str, str]:
        """Per layer, the owner of its axis: the name of a block or layer."""
        sets = _DisjointSets(x.name for x in self.layers)
        blocks: dict[tuple[str, AxesSpec], str] = {}
        readers: dict[tuple[str, int | None], str] = {}
        for layer in self.layers:
            axes = self.given[layer.name]
            # Layers of a block share their bits unless an override gives some of them other candidates.
            if self.spec.bits_per == "block" and layer.unit is not None:
                bits_only = axes.model_copy(update={"op": None, "width": None})
                sets.join(blocks.setdefault((layer.unit, bits_only), layer.name), layer.name)
            if kind == "act" or axes.bits is not None:
                # If the first reader is kept float, the next reader represents the tensor.
                next_reader = readers.setdefault((layer.reads, layer.op), layer.name)
                first = layer.reads if layer.reads in self.given else next_reader
                if first != layer.name:
                    self._must_agree(kind, layer.name, first, "read the same tensor and share a quantizer")
                    sets.join(first, layer.name)
        for group in self.spec.groups:
            members = [x.name for x in self.layers if any(fnmatchcase(name, p) for p in group for name in _names(x))]
            for other in members[1:]:
                self._must_agree(kind, members[0], other, "are in one group")
                sets.join(members[0], other)
        return self._set_names(sets)

    def _set_names(self, sets: _DisjointSets) -> dict[str, str]:
        """Per layer, the name of its set: the unit if the set is exactly that unit, else the set's first layer."""
        owners = {x.name: x.unit for x in self.layers}
        owners_of: dict[str, set[str | None]] = {}
        roots_of: dict[str | None, set[str]] = {}
        for name, owner in owners.items():
            root = sets.find(name)
            owners_of.setdefault(root, set()).add(owner)
            roots_of.setdefault(owner, set()).add(root)
        keys = {}
        for name, owner in owners.items():
            root = sets.find(name)
            whole = owners_of[root] == {owner} and roots_of[owner] == {root}
            keys[name] = owner if self.spec.bits_per == "block" and whole and owner is not None else root
        return keys

    def _must_agree(self, kind: str, first: str, second: str, why: str) -> None:
        a, b = self.given[first], self.given[second]
        own = f"{kind}_bits"
        if (a.bits, getattr(a, own)) != (b.bits, getattr(b, own)):
            raise SpaceError(
                f"{self.spec.name}: layers {first!r} and {second!r} {why}, so they need the same bits candidates; "
                "override both alike"
            )


class _DisjointSets:
    """Union-find over layer names; a set is represented by its first member in order of execution."""

    def __init__(self, names: Iterable[str]) -> None:
        self.order = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.parent = {name: name for name in self.order}

    def find(self, name: str) -> str:
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def join(self, a: str, b: str) -> None:
        first, second = sorted((self.find(a), self.find(b)), key=self.order.__getitem__)
        self.parent[second] = first
