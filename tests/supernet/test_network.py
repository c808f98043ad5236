from __future__ import annotations

from typing import Any

import pytest
from supernet_cases import space, supernet
from torch import nn

from spos_quant.errors import ConfigError, SpaceError
from spos_quant.space.spec import SpaceSpec, parse_spec
from spos_quant.supernet.blocks import BlockSpec
from spos_quant.supernet.joins import chain, concatenate
from spos_quant.supernet.network import BlockBuilder, named_blocks, places, plain_name


def spec(**axes: Any) -> SpaceSpec:
    raw = {"name": "x", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 2, **axes}
    return parse_spec(raw, "x")


def test_blocks_take_the_candidates_of_the_space() -> None:
    builder = BlockBuilder(
        spec(axes={"op": ["skip", "conv3x3"], "width": [0.5, 2.0]}, overrides={"b*": {"op": ["conv5x5"], "width": [1]}})
    )
    first = builder.block("a", BlockSpec(8, 8), own_op="bottleneck")
    assert first.op_names == ("skip", "conv3x3")
    assert first.candidates["conv3x3"].conv1.weight.shape == (16, 8, 3, 3)
    second = builder.block("b1", BlockSpec(8, 16, 2), own_op="conv3x3", downsample=nn.Identity())
    assert second.op_names == ("conv5x5",)
    assert second.candidates["conv5x5"].conv1.weight.shape == (16, 8, 5, 5)
    assert builder.own_ops == {"a": "bottleneck", "b1": "conv3x3"}


def test_without_axes_a_block_is_the_backbones_own() -> None:
    block = BlockBuilder(spec()).block("a", BlockSpec(16, 16), own_op="bottleneck")
    assert block.op_names == ("bottleneck",)
    assert block.candidates["bottleneck"].conv1.weight.shape == (4, 16, 1, 1)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(8, 16, 1), (8, 8, 2)])
def test_a_changed_shape_needs_a_shortcut(inputs: int, outputs: int, stride: int) -> None:
    with pytest.raises(SpaceError, match="block 'layer1' changes the shape and needs a shortcut"):
        BlockBuilder(spec()).block("layer1", BlockSpec(inputs, outputs, stride), own_op="conv3x3")


def test_an_operator_that_cannot_sit_there() -> None:
    builder = BlockBuilder(spec(axes={"op": ["skip"]}))
    with pytest.raises(SpaceError, match="block 'a' changes the shape, so 'skip' cannot stand there; override"):
        builder.block("a", BlockSpec(8, 16), own_op="mbconv3x3", join=chain)
    builder = BlockBuilder(spec(axes={"op": ["shuffle3x3", "conv3x3"]}))
    with pytest.raises(SpaceError, match="needs operators with a shortcut of their own, which 'conv3x3' has not"):
        builder.block("a", BlockSpec(8, 16, 2, projection=True), own_op="shuffle3x3", join=concatenate)


def test_unknown_operator() -> None:
    with pytest.raises(ConfigError, match="unknown operator 'convv5x5'; did you mean 'conv5x5'"):
        BlockBuilder(spec(axes={"op": ["convv5x5"]})).block("a", BlockSpec(8, 8), own_op="conv3x3")


def test_places_name_every_layer_as_in_the_plain_network() -> None:
    made = supernet("digits-mixed")
    found = list(places(made.body))
    assert {(p.name, p.op) for p in found} == {
        (x.name, None if x.op is None else made.space.blocks[x.block or 0].op.values[x.op]) for x in made.space.layers
    }
    assert len({id(p.layer) for p in found}) == len(found) == len(made.space.layers)
    by_key = {(p.name, p.op): p for p in found}
    shortcut = by_key["layer2.0.downsample.0", None]
    assert shortcut.block == "layer2.0"
    assert shortcut.layer is made.body.get_submodule("layer2.0.downsample.0")
    inside = by_key["layer2.0.depthwise2", "sepconv3x3"]
    assert inside.block == "layer2.0"
    assert inside.layer is made.body.get_submodule("layer2.0.candidates.sepconv3x3.depthwise2")
    assert by_key["fc", None].block is None


def test_blocks_in_order() -> None:
    made = supernet("option a")
    assert list(named_blocks(made.body)) == [f"layer{s}.{i}" for s in (1, 2, 3) for i in (0, 1, 2)]
    assert list(named_blocks(made.body)) == [b.name for b in space("option a").blocks]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("layer1.0.candidates.conv3x3.conv1.weight", "layer1.0.conv1.weight"),
        ("layer1.0.downsample.1.running_mean", "layer1.0.downsample.1.running_mean"),
        ("fc.bias", "fc.bias"),
    ],
)
def test_plain_names(path: str, name: str) -> None:
    assert plain_name(path) == name
