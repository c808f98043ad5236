"""The cost of one network, layer by layer, for `spos-quant cost` and `sq.measure`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spos_quant.cost.metrics import FORMULA, bitops, formula_metrics, metrics
from spos_quant.errors import SpaceError
from spos_quant.space.bit_config import BitConfig
from spos_quant.space.search_space import Architecture, SearchSpace
from spos_quant.space.shapes import LayerShape
from spos_quant.space.spec import Bits


@dataclass(frozen=True)
class LayerRow:
    """One layer of one network."""

    name: str
    kind: str
    shape: LayerShape
    weight_bits: Bits
    act_bits: Bits
    counted: bool
    """False if the layer is kept float and so not part of `bitops`."""


def total(rows: Iterable[LayerRow], metric: str, other_macs: int = 0) -> int:
    """The sum of a metric over layers. Raises `ConfigError` if the metric is not registered."""
    cost = metrics[metric]
    rows = tuple(rows)
    inside = sum(cost(row.shape, row.weight_bits, row.act_bits, row.counted) for row in rows)
    return inside + cost.mac_outside * other_macs


def summary(
    rows: Sequence[LayerRow],
    *,
    space: str | None,
    architecture: str | None,
    full_precision: bool = False,
    other_macs: int = 0,
) -> dict[str, Any]:
    """The keys of `cost --json`: every metric, the formula's name, and all layers, counted or not.

    Metrics that do not apply to full precision, such as `bitops`, are None if `full_precision`.
    """
    totals = {
        name: total(rows, name, other_macs) if metric.full_precision or not full_precision else None
        for name, metric in formula_metrics().items()
    }
    layers = [
        {
            "name": row.name,
            "kind": row.kind,
            "macs": row.shape.macs,
            "weight_bits": row.weight_bits,
            "act_bits": row.act_bits,
            "bitops": bitops(row.shape, row.weight_bits, row.act_bits, row.counted),
            "counted": row.counted,
        }
        for row in rows
    ]
    return {"space": space, "architecture": architecture, **totals, "formula": FORMULA, "layers": layers}


def space_summary(space: SearchSpace, rows: Sequence[LayerRow], architecture: str | None = None) -> dict[str, Any]:
    """`summary` of layers of a space; `bitops` is None if the space is full precision and no layer is quantized."""
    return summary(
        rows,
        space=space.name,
        architecture=architecture,
        full_precision=space.spec.full_precision and not any(row.weight_bits or row.act_bits for row in rows),
        other_macs=space.network_shapes.other_macs,
    )


def architecture_rows(space: SearchSpace, architecture: Architecture) -> list[LayerRow]:
    """The layers of an architecture."""
    return [
        LayerRow(
            layer.name,
            layer.kind,
            shape,
            layer.weight.value(architecture) if layer.quantized else None,
            layer.act.value(architecture) if layer.quantized else None,
            layer.quantized,
        )
        for layer, shape in space.active_layers(space.canonical(architecture))
    ]


def config_rows(space: SearchSpace, config: BitConfig) -> list[LayerRow]:
    """The layers of a bit configuration, whose bits need not be candidates of the space.

    Operators and widths must be candidates of the space or those of the published backbone.

    Raises:
        SpaceError: a block or layer is unknown, the shapes of an operator or width are not known, or a layer is
            missing or not in the network.
    """
    space.check_names(config)
    rows = []
    for name, kind, shape, counted in _shapes(space, config):
        if name not in config.layers:
            raise SpaceError(f"layer {name!r} is missing in the bit configuration")
        bits = config.layers[name]
        if bits.out_channels not in (None, shape.out_channels):
            raise SpaceError(
                f"layer {name!r}: the bit configuration says {bits.out_channels} output channels, its operator and "
                f"width give {shape.out_channels}; correct out_channels or leave it out"
            )
        quantized = (bits.weight_bits, bits.act_bits) != (None, None)
        rows.append(LayerRow(name, kind, shape, bits.weight_bits, bits.act_bits, counted or quantized))
    extra = [name for name in config.layers if name not in {row.name for row in rows}]
    if extra:
        raise SpaceError(f"layer {extra[0]!r} of the bit configuration is not in the network that it describes")
    return rows


def _shapes(space: SearchSpace, config: BitConfig) -> Iterator[tuple[str, str, LayerShape, bool]]:
    """Name, kind, shape and searchability of each layer in order of execution."""
    index = {block.name: i for i, block in enumerate(space.blocks)}
    outside = {x.name: x.quantized for x in space.layers if x.block is None}
    done: set[str] = set()
    # The published backbone has layers in every block, whatever operators the space offers there.
    for layer in space.network_shapes.reference:
        if layer.block is None:
            yield layer.name, layer.kind, layer.shapes[0], outside[layer.name]
        elif layer.block not in done:
            done.add(layer.block)
            yield from _block_shapes(space, config, index[layer.block])


def _block_shapes(space: SearchSpace, config: BitConfig, index: int) -> Iterator[tuple[str, str, LayerShape, bool]]:
    block, own = space.blocks[index], space.network_shapes.reference_ops[index]
    choice = config.blocks.get(block.name)
    op, width = (choice.op, choice.width) if choice else (own, 1.0)
    slots = [x for x in space.layers if x.block == index and (x.op is None or block.op.values[x.op] == op)]
    if op in block.op.values and (width in block.width.values or all(len(x.shapes) == 1 for x in slots)):
        for slot in slots:
            shape = slot.shapes[block.width.values.index(width) if len(slot.shapes) > 1 else 0]
            yield slot.name, slot.kind, shape, slot.quantized
    elif (op, width) == (own, 1.0):
        for layer in space.network_shapes.reference:
            if layer.block == block.name:
                searchable = space.default_bits[layer.name] and not space.spec.full_precision
                yield layer.name, layer.kind, layer.shapes[0], searchable
    else:
        raise SpaceError(
            f"block {block.name!r}: shapes of operator {op!r} at width {width} are not known in {space.name!r} "
            f"(operators {list(block.op.values)}, widths {list(block.width.values)})"
        )
