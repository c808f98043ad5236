"""Attaches quantizers to the layers of a network, and makes the plain model of a space without choices."""

from __future__ import annotations

import torch
from torch import nn

from spos_quant.errors import ModelError
from spos_quant.quant.static import StaticMaker
from spos_quant.quant.switch import InputQuantizer, SwitchLayer
from spos_quant.space.search_space import AxisReference, SearchSpace
from spos_quant.supernet.dry_run import build_body
from spos_quant.supernet.network import Backbone, named_blocks, places

_STALE = "the network does not match the network shapes of its search space; measure the network shapes again"


def attach(space: SearchSpace, body: nn.Module) -> list[tuple[SwitchLayer, AxisReference, AxisReference]]:
    """Gives every quantized layer its quantizers; returns the layers with the axis references of their bits.

    Raises:
        ModelError: the body does not match the network shapes of the space.
    """
    found = {(p.name, p.op): p.layer for p in places(body)}
    common = {slot.name for slot in space.layers if slot.quantized and slot.op is None}
    inputs: dict[tuple[str, str | None], InputQuantizer] = {}
    attached = []
    for slot in space.layers:
        block = None if slot.block is None else space.blocks[slot.block]
        op = None if slot.op is None or block is None else block.op.values[slot.op]
        layer = found.pop((slot.name, op), None)
        if layer is None or layer.weight.numel() != max(shape.weights for shape in slot.shapes):
            raise ModelError(f"{_STALE}: layer {slot.name!r} differs")
        if not slot.quantized:
            continue
        bits = [b for b in slot.act.values if b is not None]
        # A tensor that is read by a layer common to all operators has one quantizer; else each operator has its own.
        key = (slot.reads, None if slot.reads in common else op)
        if bits and key not in inputs:
            made = InputQuantizer(bits, signed=layer.signed, quantizer=space.spec.quantizer)
            inputs[key] = made.to(layer.weight.dtype)
        layer.quantize(slot.weight.values, space.spec.quantizer, inputs.get(key))
        attached.append((layer, slot.weight, slot.act))
    if found:
        raise ModelError(f"{_STALE}: layer {next(iter(found))[0]!r} is not in it")
    return attached


def plain_model(space: SearchSpace, backbone: Backbone) -> nn.Module:
    """The plain model of a space with one candidate per axis; its weights must still be loaded.

    It equals the `subnet` of that space's supernet, without building the supernet.
    """
    only = (0,) * len(space.axes)
    # Construction draws random numbers on the default device; the user's generator state must not change.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        body, _ = build_body(space.spec, backbone, device="cpu")
        for layer, weight, act in attach(space, body):
            layer.activate_bits(weight.value(only), act.value(only))
        for block in named_blocks(body).values():
            block.activate(0, 0)
        return StaticMaker().module(body)
