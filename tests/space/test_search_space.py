from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import VARIANTS, enumerate_space, toy_space

from spos_quant.backbones.build import builtin_spaces, load_space
from spos_quant.errors import SpaceError
from spos_quant.space import bit_config
from spos_quant.space.bit_config import parse_bit_config, parse_uniform

SPACES = {name: toy_space(**changes) for name, changes in VARIANTS.items()}


@pytest.mark.parametrize("name", SPACES)
def test_size_counts_the_canonical_architectures(name):
    assert SPACES[name].size == len(enumerate_space(SPACES[name]))


def test_size_by_hand():
    # per block: skip without further choices, or 2 operators x 2 widths x 3 bits; the shortcut of b1 keeps its bits
    assert toy_space().size == (1 + 2 * 2 * 3) * (3 + 2 * 2 * 3)


@pytest.mark.parametrize("name", SPACES)
def test_sampling_is_uniform_over_canonical_architectures(name):
    space = SPACES[name]
    everything = enumerate_space(space)
    n = 60 * len(everything)
    draws = space.sample_many(np.random.default_rng(0), n)
    counts = dict.fromkeys(everything, 0)
    for a in draws:
        counts[a] += 1  # a KeyError would be an architecture that is not canonical
    deviation = (np.array(list(counts.values())) - 60) / np.sqrt(60)
    assert np.abs(deviation).max() < 5.5
    assert (deviation**2).sum() / len(everything) < 1.3


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**31), name=st.sampled_from([*SPACES, *builtin_spaces()]))
def test_decode_inverts_encode_and_bit_config(seed, name):
    space = SPACES[name] if name in SPACES else load_space(name)
    a = space.sample(np.random.default_rng(seed))
    assert space.decode(space.encode(a)) == a
    text = json.dumps(space.bit_config(a).to_json())
    assert space.architecture(parse_bit_config(json.loads(text), "text")) == a


def test_bit_configurations_fit_the_published_schema():
    from importlib.resources import files

    schema = json.loads((files("spos_quant.space") / "bit-config.schema.json").read_text("utf-8"))
    for name in ("digits-mixed", "resnet18-mixed", "digits-blocks"):
        space = load_space(name)
        raw = space.bit_config(space.sample(np.random.default_rng(1)), cost={"bitops": 1}).to_json()
        jsonschema.validate(raw, schema)
        del raw["layers"]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(raw, schema)


def test_irrelevant_axes_are_zero():
    space = toy_space()
    skip = space.axes[0]
    assert skip.kind == "op"
    indices = [len(a.candidates) - 1 for a in space.axes]
    canonical = space.canonical(indices)
    assert canonical[0] == 2
    assert canonical[1:3] == (0, 0)  # width and bits of a skipped block
    assert canonical[-1] == 2  # the bits of b1 are still relevant for its shortcut


def test_layers_that_read_one_tensor_share_an_axis_across_operators():
    space = toy_space(bits_per="layer")
    short = next(x for x in space.layers if x.name == "b1.short")
    firsts = [x for x in space.layers if x.name == "b1.c1"]
    assert len(firsts) == 2
    assert {x.act.axis for x in firsts} == {short.act.axis}
    assert next(x for x in space.layers if x.name == "b1.c2").act.axis != short.act.axis


def test_groups_read_one_axis():
    space = SPACES["grouped"]
    axes = {x.name: x.weight.axis for x in space.layers}
    assert axes["b0.c1"] == axes["b1.c2"]
    assert axes["b0.c2"] != axes["b0.c1"]


def test_uniform_is_the_backbones_own_network():
    space = toy_space()
    a = space.uniform(4, 4)
    assert space.describe(a) == {
        **{f"b{i}.op": "conv" for i in range(2)},
        **{f"b{i}.width": 1.0 for i in range(2)},
        **{f"b{i}.bits": (4, 4) for i in range(2)},
    }
    with pytest.raises(SpaceError, match="no candidate"):
        space.uniform(3, 3)


def test_uniform_keeps_locked_and_float_layers():
    config = toy_space(**VARIANTS["overrides"]).uniform_config(5, 6)
    assert config.layers["b1.c1"].weight_bits == 8
    assert (config.layers["b0.c1"].weight_bits, config.layers["b0.c1"].act_bits) == (5, 6)
    assert config.layers["stem"].weight_bits is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["layers"].pop("b0.c2"), "layer 'b0.c2' is missing"),
        (lambda c: c["layers"].update(x=c["layers"]["stem"]), "layer 'x' that 'toy' does not have"),
        (lambda c: c["layers"]["b0.c1"].update(weight_bits=7), "no candidate of space 'toy'"),
        (lambda c: c["layers"]["stem"].update(weight_bits=4, act_bits=4), "kept float"),
        (lambda c: c["blocks"]["b0"].update(op="wde"), "operator 'wde' is no candidate"),
        (lambda c: c["blocks"]["b0"].update(width=3.0), "width 3.0 is no candidate"),
        (lambda c: c.update(format="other/2"), "expected 'spos-quant/bit-config/1'"),
        (lambda c: c["layers"]["b0.c1"].update(weight_bits="4"), "weight_bits.*got str"),
        (lambda c: c.update(layer={}), "did you mean 'layers'"),
    ],
)
def test_wrong_bit_configurations_are_explained(change, message):
    space = toy_space()
    raw = space.bit_config(space.uniform(2, 4)).to_json()
    change(raw)
    with pytest.raises(SpaceError, match=message):
        space.architecture(parse_bit_config(raw, "file"))


@pytest.mark.parametrize("text", ["0,0", "0,0,0,0,0,9", "a,b", "-1,0,0,0,0,0"])
def test_wrong_architectures_are_explained(text):
    with pytest.raises(SpaceError, match=r"expected|indices"):
        toy_space().decode(text)


def test_parse_uniform():
    assert parse_uniform("w3A4") == (3, 4)
    assert parse_uniform("float") == (None, None)
    assert parse_uniform("4bit") is None
    with pytest.raises(SpaceError, match="1 to 8"):
        parse_uniform("w9a2")
    assert bit_config.FORMAT == "spos-quant/bit-config/1"
