"""Shapes from dry runs, against the real network with its costs measured by hooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from supernet_cases import NAMES, every_candidate, images, space, supernet
from torch import Tensor, nn

from spos_quant.errors import ModelError
from spos_quant.quant.static import is_quant_layer, read_bits
from spos_quant.quant.switch import SwitchLayer
from spos_quant.space.shapes import NetworkShapes
from spos_quant.space.spec import SpaceSpec, parse_spec
from spos_quant.supernet.dry_run import build_body, dry_run, measure_shapes
from spos_quant.supernet.layers import conv
from spos_quant.supernet.network import BlockBuilder


def costs_by_hooks(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Metrics of a plain model: MACs from the outputs of its layers, bits from its own quantizers."""
    found = dict.fromkeys(("bitops", "bitops_total", "macs", "float_macs", "params", "weight_bytes"), 0)

    def hook(layer: Any, _x: Any, y: Tensor) -> None:
        macs = y[0].numel() * layer.weight[0].numel()
        w, a = ((bits or 32) for bits in read_bits(layer))
        found["macs"] += macs
        found["bitops_total"] += macs * w * a
        found["bitops" if is_quant_layer(layer) else "float_macs"] += macs * (w * a if is_quant_layer(layer) else 1)
        found["params"] += sum(p.numel() for p in (layer.weight, layer.bias) if p is not None)
        found["weight_bytes"] += int(np.ceil(layer.weight.numel() * w / 8))

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(hook)
    with torch.no_grad():
        model.eval()(x)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_the_cost_of_the_activated_network(name: str) -> None:
    made = supernet(name)
    rng = np.random.default_rng(0)
    architectures = [*every_candidate(made.space)[:: 5 if name != "option a" else 1], *made.space.sample_many(rng, 3)]
    x = images(made, n=1)
    seen = set()
    for a in architectures:
        measured = costs_by_hooks(made.subnet(a), x)
        seen.add(tuple(measured.values()))
        for metric, value in measured.items():
            assert made.table.total(a, metric) == value, (metric, a)
            reported = made.cost(a)[metric]
            assert reported == (None if metric == "bitops" and name == "float" else value)
    assert len(seen) > 1


def test_order_and_shared_tensors() -> None:
    network_shapes = space("digits-mixed").network_shapes
    names = [x.name for x in network_shapes.layers]
    assert names[0] == "conv1"
    assert names[-1] == "fc"
    first = names.index("layer2.0.downsample.0")
    assert all(not n.startswith("layer2") for n in names[:first])
    reads = {(x.name, x.op): x.reads for x in network_shapes.layers}
    for op, layer in ((0, "conv1"), (1, "conv1"), (2, "conv1"), (3, "depthwise1")):
        assert reads[f"layer2.0.{layer}", op] == "layer2.0.downsample.0"
    alone = {key: value for key, value in reads.items() if value != "layer2.0.downsample.0"}
    assert all(name == value for (name, _), value in alone.items())
    assert [x.name for x in network_shapes.reference if x.block == "layer2.0"] == [
        "layer2.0.downsample.0",
        "layer2.0.conv1",
        "layer2.0.conv2",
    ]
    assert network_shapes.reference_ops == ("conv3x3",) * 4
    assert network_shapes.other_macs == 0


def test_reference_does_not_depend_on_what_the_space_offers() -> None:
    mixed, separate = space("digits-mixed").network_shapes.reference, space("separate").network_shapes.reference
    assert mixed[:-1] == separate[:-1]
    assert (mixed[-1].shapes[0].weights, separate[-1].shapes[0].weights) == (320, 160)
    assert "skip" in space("float").network_shapes.blocks[0].ops


def test_json_round_trip() -> None:
    network_shapes = space("float shortcut").network_shapes
    assert NetworkShapes.from_json(json.loads(json.dumps(network_shapes.to_json()))) == network_shapes


SPEC = parse_spec({"name": "x", "backbone": "x", "input": [2, 8, 8], "classes": 3, "axes": {"bits": [[2, 2]]}}, "x")


def backbone(body: Callable[[], nn.Module]) -> Callable[[SpaceSpec, BlockBuilder], nn.Module]:
    return lambda _spec, _builder: body()


class Attention(nn.Module):
    """A layer, then a product of two activations: multiply-adds that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(2, 4, 3)
        self.head = SwitchLayer(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).flatten(2)
        attended = (h @ h.transpose(1, 2)).mean(2)
        y: Tensor = self.head(attended)
        return y


def test_multiply_adds_outside_layers_are_reported() -> None:
    network_shapes = measure_shapes(SPEC, backbone(Attention))
    assert network_shapes.other_macs == 4 * 4 * 64
    assert {x.name: x.shapes[0].macs for x in network_shapes.layers} == {"conv": 64 * 9 * 8, "head": 12}
    assert {x.name: x.kind for x in network_shapes.layers} == {"conv": "Conv2d", "head": "Linear"}
    assert [x.shapes[0].biases for x in network_shapes.layers] == [0, 3]


class Twice(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x)


class Never(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.spare = conv(2, 2, 1)


class Fixed(nn.Module):
    """Wants 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = SwitchLayer(nn.Linear(2 * 64, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x.flatten(1))
        return y


def test_layers_that_run_twice_count_twice_and_layers_that_never_run_are_rejected() -> None:
    once, twice = (measure_shapes(SPEC, backbone(kind)).layers for kind in (Attention, Twice))
    assert [(x.shapes[0].macs, x.shapes[0].weights) for x in twice] == [
        (2 * x.shapes[0].macs, x.shapes[0].weights) for x in once
    ]
    with pytest.raises(ModelError, match="'spare' never runs"):
        measure_shapes(SPEC, backbone(Never))


def test_an_input_that_does_not_fit() -> None:
    assert measure_shapes(SPEC, backbone(Fixed)).layers[0].shapes[0].macs == 384
    with pytest.raises(ModelError, match="an input of 2x9x8 does not fit the network"):
        measure_shapes(SPEC.model_copy(update={"input": (2, 9, 8)}), backbone(Fixed))
    body, _ = build_body(SPEC, backbone(Attention))
    with pytest.raises(ModelError, match="an input of 3x8x8 does not fit"):
        dry_run(body, (torch.empty(1, 3, 8, 8, device="meta"),))
    assert not any(layer._forward_hooks for layer in body.modules())


def test_bodies_for_measuring_use_no_memory() -> None:
    body, _ = build_body(SPEC, backbone(Attention))
    assert {p.device.type for p in body.parameters()} == {"meta"}
    body, _ = build_body(SPEC, backbone(Attention), device="cpu")
    assert {p.device.type for p in body.parameters()} == {"cpu"}
