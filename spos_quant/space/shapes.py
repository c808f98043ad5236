"""The network_shapes of a network: its choice blocks and the shape of every layer under every operator and width.

Read once from the model itself by a dry run on the meta device (`spos_quant.supernet.dry_run`) and stored as JSON, so
that axes, sizes and costs need no torch afterwards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

FORMAT = "spos-quant/network_shapes/4"


class Geometry(NamedTuple):  # which JSON writes without the names: a space has thousands of them
    """One call of a layer, as far as it decides how long that takes, for one image."""

    kind: str
    """Class name of the float layer, such as `Conv2d`."""
    input: tuple[int, ...]
    """Shape of what it reads: channels and positions, or, for a linear layer, features last."""
    weight: tuple[int, ...]
    """Shape of its weight."""
    stride: tuple[int, ...] = ()
    """Per dimension; empty, as the next two, for a linear layer."""
    padding: tuple[int, ...] = ()
    """At the begin of each dimension, then at its end."""
    dilation: tuple[int, ...] = ()
    """Per dimension."""
    groups: int = 1
    """Groups of channels."""


@dataclass(frozen=True)
class LayerShape:
    """What a cost metric may know of a layer, for one image."""

    macs: int
    """Multiply-adds."""
    weights: int
    """Elements of the weight tensor."""
    biases: int
    """Elements of the bias, 0 where it has none."""
    out_channels: int
    """Output channels or features."""
    geometry: Geometry | None = None
    """Of each of its runs; None where they differ, or nobody asked."""
    runs: int = 1
    """How often it runs."""


@dataclass(frozen=True)
class LayerShapes:
    """A convolution or linear layer of the float network."""

    name: str
    """Module name in the float network; the same name under two operators is the same place."""
    kind: str
    """Class name of the float layer, such as `Conv2d`."""
    block: str | None
    """The choice block that it belongs to."""
    op: int | None
    """Index of the block's operator that has it; None where every operator does (a shortcut)."""
    reads: str
    """Name of the first layer on the path that reads the same tensor: equal for layers that share a quantizer."""
    unit: str | None
    """Layers of one unit share their bits where `bits_per` is `block`.

    It is the axis name of their choice block, or a block of the module tree."""
    shapes: tuple[LayerShape, ...]
    """One per width candidate of the block; a single one where the width does not change the layer."""


_USUAL = (("geometry", None), ("runs", 1))
"""What is not written down, because it is read so."""


@dataclass(frozen=True)
class BlockShapes:
    """A choice block and what it can become."""

    name: str
    ops: tuple[str, ...]
    widths: tuple[float, ...]
    axis: str
    """Blocks of one such name read the same axes."""


@dataclass(frozen=True)
class NetworkShapes:
    """A network's blocks and layers in order of execution."""

    blocks: tuple[BlockShapes, ...]
    layers: tuple[LayerShapes, ...]
    reference_ops: tuple[str, ...]
    """The backbone's own operator, per block."""
    reference: tuple[LayerShapes, ...]
    """The layers of the backbone as published: its own operators at width 1.0, whether or not the space offers them."""
    other_macs: int = 0
    """Multiply-adds outside of these layers; always float."""
    float_ends: tuple[str, ...] = ()
    """Those of `first` and `last` whose layer is none of these, because it cannot be quantized."""

    def to_json(self) -> dict[str, Any]:
        """A mapping of plain values that `from_json` reads back."""

        def unusual(items: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: value for key, value in items if (key, value) not in _USUAL}

        return {"format": FORMAT, **asdict(self, dict_factory=unusual)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> NetworkShapes:
        """The network_shapes that `to_json` wrote. Raises `KeyError` or `TypeError` where it is none."""

        def layer(item: dict[str, Any]) -> LayerShapes:
            return LayerShapes(**{**item, "shapes": tuple(map(shape, item["shapes"]))})

        def shape(item: dict[str, Any]) -> LayerShape:
            parts = item.get("geometry")
            if parts is None:
                return LayerShape(**item)
            geometry = Geometry._make(tuple(part) if isinstance(part, list) else part for part in parts)
            return LayerShape(**{**item, "geometry": geometry})

        if raw.get("format") != FORMAT:
            raise KeyError("format")
        return cls(
            blocks=tuple(
                BlockShapes(block["name"], tuple(block["ops"]), tuple(block["widths"]), block["axis"])
                for block in raw["blocks"]
            ),
            layers=tuple(map(layer, raw["layers"])),
            reference_ops=tuple(raw["reference_ops"]),
            reference=tuple(map(layer, raw["reference"])),
            other_macs=raw["other_macs"],
            float_ends=tuple(raw["float_ends"]),
        )
