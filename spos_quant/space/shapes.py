"""Network shapes: the choice blocks of a network and the shape of every layer under every operator and width.

They are measured once by a dry run of the model on the meta device (`spos_quant.supernet.dry_run`) and stored as JSON,
so that axes, sizes and costs need no torch afterwards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

FORMAT = "spos-quant/network-shapes/1"


class Geometry(NamedTuple):  # JSON writes a tuple without names: a space has thousands of them
    """The properties of one layer call that determine its latency, for one image."""

    kind: str
    """Class name of the float layer, for example `Conv2d`."""
    input: tuple[int, ...]
    """Input shape: channels, then spatial dimensions; for a linear layer, features last."""
    weight: tuple[int, ...]
    """Weight shape."""
    stride: tuple[int, ...] = ()
    """Per dimension; `()` for a linear layer, as are `padding` and `dilation`."""
    padding: tuple[int, ...] = ()
    """At the beginning of each dimension, then at the end of each."""
    dilation: tuple[int, ...] = ()
    """Per dimension."""
    groups: int = 1
    """Groups of channels."""


@dataclass(frozen=True)
class LayerShape:
    """What cost metrics know about a layer, for one image."""

    macs: int
    """Multiply-adds."""
    weights: int
    """Elements of the weight tensor."""
    biases: int
    """Elements of the bias; 0 if it has none."""
    out_channels: int
    """Output channels or features."""
    geometry: Geometry | None = None
    """Geometry of each call; None if the calls differ or it was not measured."""
    runs: int = 1
    """Calls per forward pass."""


@dataclass(frozen=True)
class LayerShapes:
    """A convolution or linear layer of the float network."""

    name: str
    """Module name in the float network; layers of different operators may share a name."""
    kind: str
    """Class name of the float layer, for example `Conv2d`."""
    block: str | None
    """The choice block that it belongs to."""
    op: int | None
    """Index of the block's operator that has it; None if every operator has it (a shortcut)."""
    reads: str
    """Name of the first layer on the path that reads the same input tensor; equal for layers that share a quantizer."""
    unit: str | None
    """Layers of one unit share their bits if `bits_per` is `block`.

    It is the axis name of their choice block, or a block of the module tree."""
    shapes: tuple[LayerShape, ...]
    """One per width candidate of the block; a single one if the width does not change the layer."""


_DEFAULTS = (("geometry", None), ("runs", 1))
"""Default values, which the JSON leaves out."""


@dataclass(frozen=True)
class BlockShapes:
    """A choice block with its operators and widths."""

    name: str
    ops: tuple[str, ...]
    widths: tuple[float, ...]
    axis: str
    """Name of its axes; blocks with the same name share axes."""


@dataclass(frozen=True)
class NetworkShapes:
    """A network's blocks and layers in order of execution."""

    blocks: tuple[BlockShapes, ...]
    layers: tuple[LayerShapes, ...]
    reference_ops: tuple[str, ...]
    """The backbone's own operator, per block."""
    reference: tuple[LayerShapes, ...]
    """The layers of the backbone as published: its own operators at width 1.0, even if not offered by the space."""
    other_macs: int = 0
    """Multiply-adds outside these layers; always float."""
    float_ends: tuple[str, ...] = ()
    """`first` or `last`, if that layer of the backbone cannot be quantized and so is not in `layers`."""

    def to_json(self) -> dict[str, Any]:
        """A mapping of plain values that `from_json` reads back."""

        def without_defaults(items: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: value for key, value in items if (key, value) not in _DEFAULTS}

        return {"format": FORMAT, **asdict(self, dict_factory=without_defaults)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> NetworkShapes:
        """The network shapes that `to_json` wrote. Raises `KeyError` or `TypeError` if `raw` is in another format."""

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
