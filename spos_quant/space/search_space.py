"""`SearchSpace`: the axes, the blocks and layers that use them, and architectures in canonical form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spos_quant.errors import SpaceError, near
from spos_quant.space.bit_config import FORMAT, BitConfig, parse_bit_config
from spos_quant.space.notation import notations
from spos_quant.space.shapes import LayerShape, NetworkShapes
from spos_quant.space.spec import Bits, SpaceSpec
from spos_quant.space.tree import Axis, IntArray, Product, decompose, sample_uniform

Architecture = tuple[int, ...]
"""One candidate index per axis. Canonical: axes that the other choices make irrelevant are 0. Immutable, hashable."""


@dataclass(frozen=True)
class AxisReference:
    """A reference to an axis: its value is `values[candidate]`, or the constant `values[0]` if `axis` is None."""

    axis: int | None
    values: tuple[Any, ...]

    def index(self, architecture: Sequence[int]) -> int:
        """The active candidate."""
        return 0 if self.axis is None else int(architecture[self.axis])

    def value(self, architecture: Sequence[int]) -> Any:
        """The active candidate's value."""
        return self.values[self.index(architecture)]


@dataclass(frozen=True)
class BlockSlot:
    """A choice block and its axis references."""

    name: str
    op: AxisReference
    width: AxisReference


@dataclass(frozen=True)
class LayerSlot:
    """A layer of one operator and its axis references."""

    name: str
    kind: str
    block: int | None
    """Index of its choice block."""
    op: int | None
    """Index of the operator that it belongs to; None if every operator has it."""
    quantized: bool
    """False if the space keeps it float."""
    weight: AxisReference
    act: AxisReference
    shapes: tuple[LayerShape, ...]
    """One per width candidate; a single one if the width does not change the layer."""
    reads: str
    """Name of the first layer that reads the same input tensor."""


@dataclass(frozen=True)
class SearchSpace:
    """Axes, the choice blocks and layers that use them, and the shapes of the backbone. Immutable.

    Letters: `A` axes, `N` architectures.
    """

    spec: SpaceSpec
    network_shapes: NetworkShapes
    axes: tuple[Axis, ...]
    blocks: tuple[BlockSlot, ...]
    layers: tuple[LayerSlot, ...]
    default_bits: Mapping[str, bool]
    """For every layer of the reference network, whether it is quantized."""

    @property
    def name(self) -> str:
        """The space's name."""
        return self.spec.name

    @cached_property
    def tree(self) -> Product:
        """The axes as a tree of independent decisions."""
        return decompose(self.axes)

    @property
    def size(self) -> int:
        """Number of canonical architectures, exact."""
        return self.tree.size

    def sample(self, rng: np.random.Generator) -> Architecture:
        """One architecture, uniform over all canonical ones. Advances `rng`."""
        return self.sample_many(rng, 1)[0]

    def sample_many(self, rng: np.random.Generator, n: int) -> list[Architecture]:
        """`n` independent architectures, each uniform over all canonical ones. Advances `rng`."""
        return as_architectures(sample_uniform(self.tree, len(self.axes), n, rng))

    def relevant(self, architecture: Sequence[int]) -> tuple[bool, ...]:
        """Per axis, whether it is relevant in this architecture."""
        decided = dict(enumerate(architecture))
        return tuple(bool(axis.relevant(decided)) for axis in self.axes)

    def canonical(self, indices: Sequence[int]) -> Architecture:
        """The architecture of these candidate indices, with irrelevant axes set to 0.

        Raises:
            SpaceError: the number of indices is not the number of axes, or an index is out of range.
        """
        if len(indices) != len(self.axes):
            raise SpaceError(
                f"an architecture of {self.name!r} has {len(self.axes)} indices, one per axis, got {len(indices)}"
            )
        for axis, index in zip(self.axes, indices, strict=True):
            if not 0 <= index < len(axis.candidates):
                raise SpaceError(
                    f"axis {axis.name!r}: expected an index of 0 to {len(axis.candidates) - 1}, got {index}"
                )
        kept = self.relevant(indices)
        return tuple(int(i) if keep else 0 for i, keep in zip(indices, kept, strict=True))

    def encode(self, architecture: Architecture) -> str:
        """The candidate indices in order of the axes as a string: `0,3,1`."""
        return ",".join(map(str, self.canonical(architecture)))

    def decode(self, text: str) -> Architecture:
        """The architecture of a string of candidate indices, as `encode` writes it; brackets are allowed.

        Backbones of other projects also accept the strings of those projects (`space.notation`).

        Raises:
            SpaceError: the string is in neither notation, or the architecture is not in this space.
        """
        inner = text.strip().strip("()[]")
        try:
            indices = [int(part) for part in inner.replace(" ", ",").split(",") if part]
        except ValueError:  # may be in the notation of another project
            ops = notations[self.spec.backbone].read(text) if self.spec.backbone in notations else None
            if ops is not None:
                return self._of_operators(ops, text)
            raise SpaceError(f"architecture {text!r}: expected candidate indices such as 0,3,1") from None
        return self.canonical(indices)

    def _of_operators(self, ops: Mapping[str, str], text: str) -> Architecture:
        others = [axis.name for axis in self.axes if axis.kind != "op"]
        if others:
            raise SpaceError(
                f"architecture {text!r} does not set {others[0]!r}; give the {len(self.axes)} candidate indices"
            )
        found: dict[int, int] = {}
        for block, shapes in zip(self.blocks, self.network_shapes.blocks, strict=True):
            self._match(found, block.op, ops[shapes.axis], f"block {block.name!r}: operator")
        return self.canonical([found[a] for a in range(len(self.axes))])

    def notation(self, architecture: Architecture) -> str | None:
        """The architecture in the notation of the project that the backbone comes from; None if there is none."""
        if self.spec.backbone not in notations:
            return None
        pairs = zip(self.network_shapes.blocks, self.blocks, strict=True)
        ops = {shapes.axis: str(block.op.value(architecture)) for shapes, block in pairs}
        return notations[self.spec.backbone].write(ops)

    def active_layers(self, architecture: Architecture) -> Iterator[tuple[LayerSlot, LayerShape]]:
        """The layers of this architecture in order of execution, each with its shape."""
        for layer in self.layers:
            block = None if layer.block is None else self.blocks[layer.block]
            if block is not None and layer.op is not None and block.op.index(architecture) != layer.op:
                continue
            width = 0 if block is None or len(layer.shapes) == 1 else block.width.index(architecture)
            yield layer, layer.shapes[width]

    def bit_config(self, architecture: Architecture, **information: Mapping[str, Any]) -> BitConfig:
        """The bit configuration of an architecture; `information` may hold `cost` and `provenance`."""
        architecture = self.canonical(architecture)
        searched = any(len(b.op.values) > 1 or len(b.width.values) > 1 for b in self.blocks)
        layers = {}
        for layer, shape in self.active_layers(architecture):
            layers[layer.name] = {
                "weight_bits": layer.weight.value(architecture) if layer.quantized else None,
                "act_bits": layer.act.value(architecture) if layer.quantized else None,
                **({"out_channels": shape.out_channels} if searched else {}),
            }
        blocks = {b.name: {"op": b.op.value(architecture), "width": b.width.value(architecture)} for b in self.blocks}
        return self._config(layers, blocks, information)

    def _config(
        self, layers: Mapping[str, Any], blocks: Mapping[str, Any], information: Mapping[str, Any]
    ) -> BitConfig:
        raw = {
            "format": FORMAT,
            "model": self.spec.backbone,
            "input": self.spec.input,
            "activation_bits_at": "layer input",
            "layers": layers,
            "blocks": blocks,
            "quantizer": self.spec.retrain_quantizer,
            **information,
        }
        return parse_bit_config(raw, self.name)

    def uniform_config(self, weight_bits: Bits, act_bits: Bits) -> BitConfig:
        """The backbone as published with every searchable layer at these bits, even if the space does not offer them.

        Layers that the space keeps float stay float; layers with a single candidate keep it.
        """
        float_all = weight_bits is None and act_bits is None
        locked = [x for x in self.layers if x.quantized and not float_all]
        weights = {x.name: x.weight.values[0] for x in locked if x.weight.axis is None}
        acts = {x.name: x.act.values[0] for x in locked if x.act.axis is None}
        layers = {}
        for layer in self.network_shapes.reference:
            quantized = self.default_bits[layer.name]
            layers[layer.name] = {
                "weight_bits": weights.get(layer.name, weight_bits) if quantized else None,
                "act_bits": acts.get(layer.name, act_bits) if quantized else None,
                "out_channels": layer.shapes[0].out_channels,
            }
        blocks = {
            block.name: {"op": op, "width": 1.0}
            for block, op in zip(self.network_shapes.blocks, self.network_shapes.reference_ops, strict=True)
        }
        return self._config(layers, blocks, {})

    def uniform(self, weight_bits: Bits, act_bits: Bits) -> Architecture:
        """The architecture of `uniform_config`. Raises `SpaceError` if it is not in this space."""
        return self.architecture(self.uniform_config(weight_bits, act_bits))

    def architecture(self, config: BitConfig) -> Architecture:
        """The architecture that a bit configuration names, the inverse of `bit_config`.

        Raises:
            SpaceError: a block, operator, width, layer or bit pair is not in this space.
        """
        self.check_names(config)
        found: dict[int, int] = {}
        for block, own in zip(self.blocks, self.network_shapes.reference_ops, strict=True):
            choice = config.blocks.get(block.name)
            op, width = (choice.op, choice.width) if choice else (_only(block.op, own), _only(block.width, 1.0))
            self._match(found, block.op, op, f"block {block.name!r}: operator")
            self._match(found, block.width, width, f"block {block.name!r}: width")
        start = self.canonical([found.get(a, 0) for a in range(len(self.axes))])
        for layer, _ in self.active_layers(start):
            if layer.name not in config.layers:
                raise SpaceError(f"layer {layer.name!r} is missing in the bit configuration")
            bits = config.layers[layer.name]
            if not layer.quantized:
                if (bits.weight_bits, bits.act_bits) != (None, None):
                    raise SpaceError(f"layer {layer.name!r} is kept float by space {self.name!r}")
                continue
            self._match_bits(found, layer, bits.weight_bits, bits.act_bits)
        result = self.canonical([found.get(a, 0) for a in range(len(self.axes))])
        active = {layer.name for layer, _ in self.active_layers(result)}
        extra = [name for name in config.layers if name not in active]
        if extra:
            raise SpaceError(f"layer {extra[0]!r} of the bit configuration is not in this architecture")
        return result

    def check_names(self, config: BitConfig) -> None:
        """Raises `SpaceError` if a configuration names a block or layer that this network does not have."""
        known = {layer.name for layer in self.layers} | {layer.name for layer in self.network_shapes.reference}
        for name in config.layers:
            if name not in known:
                raise SpaceError(
                    f"bit configuration names a layer {name!r} that {self.name!r} does not have{near(name, known)}"
                )
        blocks = {block.name for block in self.blocks}
        for name in config.blocks:
            if name not in blocks:
                raise SpaceError(
                    f"bit configuration names a block {name!r} that {self.name!r} does not have{near(name, blocks)}"
                )

    def _match(self, found: dict[int, int], read: AxisReference, value: object, what: str) -> None:
        matches = [i for i, candidate in enumerate(read.values) if candidate == value]
        if not matches:
            raise SpaceError(
                f"{what} {value!r} is no candidate of space {self.name!r} (candidates: {list(read.values)})"
            )
        if read.axis is not None and found.setdefault(read.axis, matches[0]) != matches[0]:
            raise SpaceError(
                f"{what} {value!r} contradicts another block or layer that uses axis {self.axes[read.axis].name!r}"
            )

    def _match_bits(self, found: dict[int, int], layer: LayerSlot, weight_bits: Bits, act_bits: Bits) -> None:
        what = f"layer {layer.name!r}:"
        if layer.weight.axis is not None and layer.weight.axis == layer.act.axis:
            pairs = AxisReference(layer.weight.axis, tuple(zip(layer.weight.values, layer.act.values, strict=True)))
            self._match(found, pairs, (weight_bits, act_bits), f"{what} weight and activation bits")
        else:
            self._match(found, layer.weight, weight_bits, f"{what} weight bits")
            self._match(found, layer.act, act_bits, f"{what} activation bits")

    def describe(self, architecture: Architecture) -> dict[str, Any]:
        """The value of every relevant axis, by name."""
        kept = self.relevant(architecture)
        return {
            axis.name: axis.candidates[i] for axis, i, keep in zip(self.axes, architecture, kept, strict=True) if keep
        }


def _only(read: AxisReference, default: Any) -> Any:
    """The value of a constant reference, else `default`."""
    return read.values[0] if read.axis is None else default


def as_architectures(rows: IntArray) -> list[Architecture]:
    """`[N, A]` indices as tuples of Python integers."""
    return [tuple(row) for row in rows.tolist()]
