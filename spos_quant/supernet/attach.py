"""Quantizers for the layers of a network, and the plain model of a space that leaves no choice."""

from __future__ import annotations

import torch
from torch import nn

from spos_quant.errors import ModelError
from spos_quant.quant.static import StaticMaker
from spos_quant.quant.switch import InputQuantizer, SwitchLayer
from spos_quant.space.search_space import Read, SearchSpace
from spos_quant.supernet.dry_run import build_body
from spos_quant.supernet.network import Backbone, named_blocks, places

_STALE = (
    "the network is not the one that the network_shapes of its search space describes; make the network_shapes anew"
)


def attach(space: SearchSpace, body: nn.Module) -> list[tuple[SwitchLayer, Read, Read]]:
    """Gives every quantized layer its quantizers; returns them with what they read.

    Raises:
        ModelError: the body is not the network that the space's network_shapes describes.
    """
    found = {(p.name, p.op): p.layer for p in places(body)}
    common = {place.name for place in space.layers if place.quantized and place.op is None}
    inputs: dict[tuple[str, str | None], InputQuantizer] = {}
    attached = []
    for place in space.layers:
        block = None if place.block is None else space.blocks[place.block]
        op = None if place.op is None or block is None else block.op.values[place.op]
        layer = found.pop((place.name, op), None)
        if layer is None or layer.weight.numel() != max(shape.weights for shape in place.shapes):
            raise ModelError(f"{_STALE}: layer {place.name!r} differs")
        if not place.quantized:
            continue
        bits = [b for b in place.act.values if b is not None]
        # A tensor that a layer common to all operators reads has one quantizer, else each operator has its own.
        key = (place.reads, None if place.reads in common else op)
        if bits and key not in inputs:
            made = InputQuantizer(bits, signed=layer.signed, quantizer=space.spec.quantizer)
            inputs[key] = made.to(layer.weight.dtype)
        layer.quantize(place.weight.values, space.spec.quantizer, inputs.get(key))
        attached.append((layer, place.weight, place.act))
    if found:
        raise ModelError(f"{_STALE}: layer {next(iter(found))[0]!r} is not in it")
    return attached


def plain_model(space: SearchSpace, backbone: Backbone) -> nn.Module:
    """The plain model of a space with one candidate per axis, whose weights are still to be loaded.

    It is what the `subnet` of a supernet of that space is, without one being made.
    """
    only = (0,) * len(space.axes)
    # Construction draws random numbers on the default device; the user's generator must not notice.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        body, _ = build_body(space.spec, backbone, device="cpu")
        for layer, weight, act in attach(space, body):
            layer.activate_bits(weight.value(only), act.value(only))
        for block in named_blocks(body).values():
            block.activate(0, 0)
        return StaticMaker().module(body)
