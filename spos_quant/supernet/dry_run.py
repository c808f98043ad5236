"""The network shapes of a network, measured by dry runs on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spos_quant.errors import ModelError
from spos_quant.quant.switch import SwitchLayer
from spos_quant.space.resolve import block_axes
from spos_quant.space.shapes import BlockShapes, LayerShape, LayerShapes, NetworkShapes
from spos_quant.space.spec import AxesSpec, SpaceSpec
from spos_quant.supernet.network import Backbone, BlockBuilder, Place, named_blocks, places


class _Seen:
    """The record of one dry run: shapes in order of execution, and the first reader of each tensor."""

    def __init__(self) -> None:
        self.shapes: dict[SwitchLayer, LayerShape] = {}
        self.reads: dict[SwitchLayer, SwitchLayer] = {}
        self._tensors: dict[tuple[int, int], tuple[Tensor, SwitchLayer]] = {}
        self.other_macs = 0

    def hook(self, layer: SwitchLayer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = layer.active_weight()
        biases = 0 if layer.bias is None else layer.active_out
        macs = layer.kind.macs(weight, inputs[0], output, layer.active_out)
        # One image, which the network may have split into a batch of windows.
        runs = len(inputs[0])
        shape = LayerShape(macs, weight.numel(), biases, layer.active_out, layer.geometry(inputs[0]), runs)
        before = self.shapes.get(layer)
        # In a layer that runs several times, multiply-adds add up but weights count once.
        self.shapes[layer] = shape if before is None else _add_run(before, shape)
        # The tensor is kept alive, so that no other tensor gets its id; a new version counts as another tensor.
        key = id(inputs[0]), inputs[0]._version
        self.reads.setdefault(layer, self._tensors.setdefault(key, (inputs[0], layer))[1])


def _add_run(before: LayerShape, now: LayerShape) -> LayerShape:
    """The shape of a layer that runs once more."""
    geometry = now.geometry if now.geometry == before.geometry else None
    return replace(before, macs=before.macs + now.macs, geometry=geometry, runs=before.runs + now.runs)


def dry_run(body: nn.Module, inputs: tuple[Any, ...]) -> _Seen:
    """Runs one image through the active path of a body.

    Args:
        body: Left in evaluation mode.
        inputs: The arguments of the body, with a batch of one; they may be on the meta device.

    Raises:
        ModelError: the input does not fit the network.
    """
    seen = _Seen()
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        for place in places(body):
            handle = place.layer.register_forward_hook(seen.hook)
            stack.callback(handle.remove)
        # Without autograd, attention uses a fused kernel that torch's counter does not know.
        stack.enter_context(torch.enable_grad())
        try:
            with counter:
                body.eval()(*inputs)
        except RuntimeError as error:
            shape = "x".join(map(str, inputs[0].shape[1:]))
            raise ModelError(f"an input of {shape} does not fit the network: {error}") from None
    # torch counts two operations per multiply-add; those outside of our layers are not quantizable.
    seen.other_macs = counter.get_total_flops() // 2 - sum(s.macs for s in seen.shapes.values())
    return seen


def build_body(spec: SpaceSpec, backbone: Backbone, device: str = "meta") -> tuple[nn.Module, BlockBuilder]:
    """The float network of a space: every operator at its largest width, without quantizers."""
    builder = BlockBuilder(spec)
    with torch.device(device):
        return backbone(spec, builder), builder


def measure_shapes(spec: SpaceSpec, backbone: Backbone) -> NetworkShapes:
    """The network shapes of a space: a dry run per operator and width, all blocks at once, and one of the reference."""
    body, builder = build_body(spec, backbone)
    blocks = named_blocks(body)
    by_layer = {place.layer: place for place in places(body)}
    widths = {name: block_axes(spec, name).width or (1.0,) for name in blocks}
    image = (torch.empty(1, *spec.input, device="meta"),)
    runs: dict[tuple[int, int], _Seen] = {}
    for op in range(max((len(b.op_names) for b in blocks.values()), default=1)):
        for width in range(max(map(len, widths.values()), default=1)):
            for name, block in blocks.items():
                block.activate(min(op, len(block.op_names) - 1), min(width, len(widths[name]) - 1))
            runs[op, width] = dry_run(body, image)
    reference = body_shapes(*build_body(spec.model_copy(update={"axes": AxesSpec(), "overrides": {}}), backbone), image)
    return NetworkShapes(
        tuple(
            BlockShapes(name, block.op_names, tuple(widths[name]), builder.axes[name]) for name, block in blocks.items()
        ),
        _layers(by_layer, runs, {name: len(w) for name, w in widths.items()}, reference.layers, builder.unit),
        tuple(builder.own_ops[name] for name in blocks),
        reference.layers,
        max(run.other_macs for run in runs.values()),
        builder.float_ends,
    )


def body_shapes(body: nn.Module, builder: BlockBuilder, inputs: tuple[Any, ...]) -> NetworkShapes:
    """The network shapes of a body in which only bits are searched; its blocks are left out.

    Args:
        body: Left in evaluation mode.
        builder: Has the units of its layers.
        inputs: The arguments of the body, with a batch of one.

    Raises:
        ModelError: the input does not fit the network.
    """
    seen = dry_run(body, inputs)
    by_layer = {place.layer: place for place in places(body)}
    layers = tuple(
        _layer_shapes(by_layer[x], None, by_layer[seen.reads[x]].name, (shape,), builder.unit)
        for x, shape in seen.shapes.items()
    )
    return NetworkShapes((), layers, (), layers, seen.other_macs, builder.float_ends)


def _layer_shapes(
    place: Place, op: int | None, reads: str, shapes: tuple[LayerShape, ...], unit: Callable[[Place], str | None]
) -> LayerShapes:
    kind = place.layer.kind.float_class.__name__
    return LayerShapes(place.name, kind, place.block, op, reads, unit(place), shapes)


def _layers(
    by_layer: dict[SwitchLayer, Place],
    runs: dict[tuple[int, int], _Seen],
    widths: dict[str, int],
    reference: tuple[LayerShapes, ...],
    unit: Callable[[Place], str | None],
) -> tuple[LayerShapes, ...]:
    # The reference network runs every block; a run whose operators are skips may not.
    position: dict[str, int] = {}
    for layer_shapes in reference:
        position.setdefault(layer_shapes.block or layer_shapes.name, len(position))
    found: list[tuple[tuple[int, int, int], LayerShapes]] = []
    for layer, place in by_layer.items():
        mine = {key: run for key, run in runs.items() if layer in run.shapes}
        if not mine:
            raise ModelError(f"layer {place.name!r} never runs")
        (first_op, _), first = next(iter(mine.items()))
        op = None if place.op is None else first_op
        shapes = [runs[first_op, w].shapes[layer] for w in range(widths[place.block] if place.block else 1)]
        kept = tuple(shapes if len(set(shapes)) > 1 else shapes[:1])
        turn = list(first.shapes).index(layer)
        key = (position[place.block or place.name], op or 0, turn)
        found.append((key, _layer_shapes(place, op, by_layer[first.reads[layer]].name, kept, unit)))
    return tuple(layer_shapes for _, layer_shapes in sorted(found, key=lambda item: item[0]))
