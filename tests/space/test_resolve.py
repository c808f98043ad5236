from __future__ import annotations

import json
from dataclasses import replace

import pytest
from toy import OPS, VARIANTS, enumerate_space, layer, network, raw_indices, toy_shapes, toy_space, toy_spec

from spos_quant.errors import SpaceError
from spos_quant.space.resolve import kept_float, resolve
from spos_quant.space.shapes import BlockShapes, LayerShape, NetworkShapes
from spos_quant.space.spec import AxesSpec

SPACES = {name: toy_space(**changes) for name, changes in VARIANTS.items()}


@pytest.mark.parametrize("name", SPACES)
def test_combinations_are_one_architecture_if_they_are_one_network(name):
    space = SPACES[name]
    networks: dict = {}
    for indices in raw_indices(space):
        networks.setdefault(network(space, indices), set()).add(space.canonical(indices))
    assert all(len(architectures) == 1 for architectures in networks.values())
    assert len(networks) == len(enumerate_space(space)) == space.size


def names(space, kind):
    return [axis.name for axis in space.axes if axis.kind == kind]


def test_axes_are_named_and_ordered_by_the_network():
    assert [axis.name for axis in SPACES["block"].axes] == [
        f"{b}.{kind}" for b in ("b0", "b1") for kind in ("op", "width", "bits")
    ]
    assert names(SPACES["layer"], "bits") == ["b0.c1.bits", "b0.c2.bits", "b0.c3.bits"] + [
        f"b1.{x}.bits" for x in ("short", "c2", "c3")
    ]
    assert names(SPACES["two axes"], "weight_bits") == ["b0.weight_bits", "b1.weight_bits"]
    assert names(SPACES["two axes per layer"], "act_bits") == [
        f"{x}.act_bits" for x in ("b0.c1", "b0.c2", "b1.short", "b1.c2")
    ]
    assert names(SPACES["two axes per layer"], "weight_bits") == [
        f"{x}.weight_bits" for x in ("b0.c1", "b0.c2", "b1.short", "b1.c1", "b1.c2")
    ]


def test_axis_names_are_unique():
    for space in [
        *SPACES.values(),
        toy_space(overrides={"b0.c2": {"bits": [[8, 8], [1, 1]]}}),
        toy_space(groups=[["b0", "b1"]]),
    ]:
        listed = [axis.name for axis in space.axes]
        assert len(set(listed)) == len(listed), listed


def test_an_override_sets_a_layer_apart_from_its_block():
    space = toy_space(overrides={"b0.c2": {"bits": [[8, 8], [1, 1]]}})
    candidates = {axis.name: axis.candidates for axis in space.axes if axis.kind == "bits"}
    assert candidates == {
        "b0.c1.bits": ((2, 2), (2, 4), (4, 4)),  # no longer the whole block
        "b0.c2.bits": ((8, 8), (1, 1)),
        "b1.bits": ((2, 2), (2, 4), (4, 4)),
    }
    reads = {x.name: x.weight.axis for x in space.layers if x.block == 0}
    assert reads["b0.c1"] == reads["b0.c3"] != reads["b0.c2"]


def test_bits_of_grouped_blocks_are_relevant_under_any_of_their_operators():
    space = toy_space(groups=[["b0", "b1"]], axes={"op": ["skip", "conv"], "bits": [[2, 2], [4, 4]]})
    assert names(space, "bits") == ["b0.c1.bits"]
    (bits,) = (a for a, axis in enumerate(space.axes) if axis.kind == "bits")
    assert space.relevant((0, 0, 0))[bits]  # the shortcut of b1 uses them under every operator
    space = toy_space(blocks=1, groups=[["b0.c1", "b0.c2"]], axes={"op": ["skip", "conv"], "bits": [[2, 2], [4, 4]]})
    assert space.canonical((0, 1)) == (0, 0)
    assert space.canonical((1, 1)) == (1, 1)
    far = toy_space(
        blocks=3, bits_per="layer", groups=[["b0.c2", "b2.c2"]], axes={"op": ["skip", "conv"], "bits": [[2, 2], [4, 4]]}
    )
    (shared,) = (a for a, axis in enumerate(far.axes) if axis.name == "b0.c2.bits")
    op = [a for a, axis in enumerate(far.axes) if axis.kind == "op"]
    for first, last in ((0, 0), (0, 1), (1, 0), (1, 1)):
        indices = [0] * len(far.axes)
        indices[op[0]], indices[op[2]], indices[shared] = first, last, 1
        assert far.canonical(indices)[shared] == (1 if first or last else 0)


def test_axes_that_every_operator_uses_are_always_relevant():
    space = toy_space(axes={"op": ["conv", "wide"], "width": [0.5, 1.0], "bits": [[2, 2], [4, 4]]})
    assert {axis.uses for axis in space.axes} == {((),)}
    assert next(a for a in SPACES["block"].axes if a.name == "b0.bits").uses == (((0, frozenset({0, 1})),),)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ([], set()),
        (["first"], {"stem"}),
        (["last"], {"head"}),
        (["first", "last"], {"stem", "head"}),
        (["*.c1"], {"b0.c1", "b1.c1"}),
        (["b1", "head"], {"b1.short", "b1.c1", "b1.c2", "b1.c3", "head"}),
        (["b?.short", "first"], {"b1.short", "stem"}),
    ],
)
def test_keep_float_takes_words_names_and_globs(keep, expected):
    space = toy_space(keep_float=keep)
    assert {x.name for x in space.layers if not x.quantized} == expected
    assert kept_float(space.spec, space.network_shapes.layers) == expected
    config = space.bit_config((0,) * len(space.axes))
    assert {
        n for n, bits in config.layers.items() if (bits.weight_bits, bits.act_bits) == (None, None)
    } == expected & set(config.layers)


def shared_input_space(kept_first):
    """Three layers that read the same tensor, as the projections of an attention do."""
    layers = tuple(layer(n, None, None, 64, reads=r) for n, r in (("q", "q"), ("k", "q"), ("v", "q"), ("out", "out")))
    spec = toy_spec(axes={"bits": [[2, 2], [4, 4]]}, keep_float=["q"] if kept_first else [])
    return resolve(spec, NetworkShapes((), layers, (), layers))


@pytest.mark.parametrize("kept_first", [False, True])
def test_readers_of_one_tensor_share_bits_even_if_the_first_is_kept_float(kept_first):
    space = shared_input_space(kept_first)
    act = {x.name: x.act.axis for x in space.layers}
    assert act["k"] == act["v"] != act["out"]
    assert act["q"] == (None if kept_first else act["k"])
    assert space.size == 4


def test_layers_of_different_operators_have_separate_axes_if_the_shortcut_is_kept_float():
    space = toy_space(bits_per="layer", keep_float=["b1.short"], axes={"op": list(OPS), "bits": [[2, 2], [4, 4]]})
    assert "b1.c1.bits" in names(space, "bits")
    assert space.size == len(enumerate_space(space))


def test_readers_of_one_tensor_may_differ_in_weight_bits_but_not_in_activation_bits():
    axes = {"op": ["conv"], "weight_bits": [2, 4], "act_bits": [2, 4]}
    fine = toy_space(axes=axes, overrides={"b1.short": {"weight_bits": [8], "act_bits": [2, 4]}})
    assert next(x for x in fine.layers if x.name == "b1.short").weight.values == (8,)
    with pytest.raises(SpaceError, match=r"'b1.c1' and 'b1.short' read the same tensor.*override both alike"):
        toy_space(axes=axes, overrides={"b1.short": {"weight_bits": [2, 4], "act_bits": [8]}})
    with pytest.raises(SpaceError, match="read the same tensor"):
        toy_space(axes=axes, overrides={"b1.short": {"bits": [[2, 2], [4, 4]]}})


@pytest.mark.parametrize(("widths", "shown"), [((0.5, 1.0, 1.5), 1.0), ((0.5, 1.5), 0.5), ((0.5,), 0.5)])
def test_a_width_that_changes_no_layer_is_not_an_axis(widths, shown):
    spec = toy_spec(axes={"width": list(widths), "bits": [[2, 2], [4, 4]]}, keep_float=[])
    only = (layer("b0.c1", "b0", 0, 64),)
    space = resolve(spec, NetworkShapes((BlockShapes("b0", ("conv",), widths, "b0"),), only, ("conv",), only))
    assert [axis.name for axis in space.axes] == ["b0.bits"]
    assert space.bit_config((1,)).blocks["b0"].width == shown
    if shown == 1.0:
        assert space.uniform(4, 4) == (1,)


def test_a_space_of_single_candidates_is_one_architecture_without_axes():
    space = toy_space(axes={"op": ["conv"], "width": [1.0], "bits": [[8, 4]]})
    assert (space.axes, space.size) == ((), 1)
    assert space.uniform(2, 2) == space.decode("") == space.architecture(space.bit_config(())) == ()
    assert space.uniform_config(2, 2).layers["b0.c1"].weight_bits == 8


def test_layers_with_a_single_candidate_of_one_operand_keep_it():
    space = toy_space(axes={"op": ["conv"], "weight_bits": [8], "act_bits": [2, 4]})
    bits = space.uniform_config(3, 4).layers["b0.c1"]
    assert (bits.weight_bits, bits.act_bits) == (8, 4)
    assert space.uniform_config(None, None).is_float


@pytest.mark.parametrize("bits", [{}, {"bits": [["float", "float"]]}, {"weight_bits": ["float"], "act_bits": [None]}])
def test_a_space_without_any_bit_width_is_full_precision(bits):
    space = toy_space(axes={"op": list(OPS), **bits})
    assert space.spec.full_precision
    assert {axis.kind for axis in space.axes} == {"op"}
    assert space.bit_config((0, 0)).is_float
    assert not toy_space(
        axes={**bits}, overrides={"b0": {"bits": [[2, 2]]}, "b1": {"bits": [["float", 2]]}}
    ).spec.full_precision


def test_blocks_that_a_configuration_does_not_name_are_the_backbones_own():
    space = toy_space(axes={"op": ["skip", "wide", "conv"], "width": [0.5, 1.0], "bits": [[2, 2], [4, 4]]})
    a = space.uniform(4, 4)
    bare = space.uniform_config(4, 4).model_copy(update={"blocks": {}})
    assert space.architecture(bare) == a
    assert space.describe(a)["b0.op"] == "conv"
    narrow = toy_space(axes={"op": ["conv"], "width": [0.5], "bits": [[2, 2], [4, 4]]})
    config = narrow.bit_config((1, 0)).model_copy(update={"blocks": {}})
    assert narrow.architecture(config) == (1, 0)


def test_network_shapes_round_trip_through_json():
    network_shapes = replace(toy_shapes(toy_spec()), other_macs=77)
    assert NetworkShapes.from_json(json.loads(json.dumps(network_shapes.to_json()))) == network_shapes
    with pytest.raises(KeyError):
        NetworkShapes.from_json({**network_shapes.to_json(), "format": "spos-quant/network_shapes/1"})
    with pytest.raises(TypeError):
        NetworkShapes.from_json({**network_shapes.to_json(), "layers": [{"nam": "x", "shapes": []}]})


def test_overrides_replace_the_other_way_of_giving_bits():
    pairs, two = AxesSpec(bits=((2, 2),)), AxesSpec(weight_bits=(4,), act_bits=(8,))
    assert pairs.updated(two) == two
    assert two.updated(pairs) == pairs
    assert two.updated(AxesSpec(op=("conv",))) == AxesSpec(op=("conv",), weight_bits=(4,), act_bits=(8,))


def test_layer_shapes_differ_by_width():
    shapes = {shape for one in SPACES["block"].layers if one.name == "b0.c1" for shape in one.shapes}
    assert LayerShape(48, 12, 0, 7) in shapes
    assert len(shapes) == 4
