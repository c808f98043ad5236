from __future__ import annotations

import pytest

from spos_quant.backbones.build import space_of
from spos_quant.space.locked import locked_spec
from spos_quant.space.spec import parse_spec
from spos_quant.train.progressive import LADDER, descent, raised

RAW = {
    "name": "small",
    "backbone": "digits-resnet",
    "input": [1, 8, 8],
    "classes": 10,
    "axes": {"bits": [[2, 2], [4, 4]]},
}
SPACE = space_of(parse_spec(RAW, "small"))


def mixed():
    """2-bit weights, 5-bit activations, one layer float, one with float activations."""
    config = SPACE.uniform_config(2, 5)
    layers = dict(config.layers)
    layers["layer1.0.conv2"] = layers["layer1.0.conv2"].model_copy(update={"weight_bits": None, "act_bits": None})
    layers["layer1.1.conv2"] = layers["layer1.1.conv2"].model_copy(update={"weight_bits": 8, "act_bits": None})
    return config.model_copy(update={"layers": layers})


def bits_of(space, path):
    return {n: (x.weight_bits, x.act_bits) for n, x in space.bit_config(path).layers.items()}


@pytest.mark.parametrize(("share", "total"), [(0.5, 16), (0.9, 10), (0.25, 7), (0.01, 5)])
def test_bits_descend_the_ladder_and_end_at_the_final_bits(share, total):
    config = mixed()
    space = space_of(locked_spec(SPACE, config, LADDER))
    draw = descent(space, config, share, total)
    final = {n: (x.weight_bits, x.act_bits) for n, x in config.layers.items()}
    ceilings = []
    for step in range(total):
        (path,) = draw(step).architectures
        found = bits_of(space, path)
        weight, _ = found["layer1.0.conv1"]
        ceilings.append(weight)
        for name, pair in final.items():
            for now, end in zip(found[name], pair, strict=True):
                assert now == (None if end is None else max(end, weight)), name
        assert (weight == 2) == (step >= share * total)
    assert ceilings == sorted(ceilings, reverse=True)
    down = [c for c in ceilings if c > 2]
    assert set(down) <= set(LADDER)
    if share * total >= 8:
        assert len(set(down)) == 4
        assert max(down.count(b) for b in LADDER) - min(down.count(b) for b in LADDER) <= 1
    assert space.architecture(config) == (0,) * len(space.axes)


def test_only_bit_widths_above_the_final_bits_are_used():
    config = SPACE.uniform_config(4, 4)
    space = space_of(locked_spec(SPACE, config, LADDER))
    draw = descent(space, config, 0.5, 20)
    assert [bits_of(space, draw(s).architectures[0])["layer1.0.conv1"][0] for s in range(0, 20, 5)] == [8, 6, 4, 4]
    top = SPACE.uniform_config(8, 8)
    nothing = space_of(locked_spec(SPACE, top, LADDER))
    assert nothing.axes == ()
    assert {descent(nothing, top, 0.5, 20)(s) for s in range(20)} == {descent(nothing, top, 0.5, 20)(0)}


def test_raised_keeps_higher_and_float_operands():
    found = raised(mixed(), 4).layers
    assert (found["layer1.0.conv1"].weight_bits, found["layer1.0.conv1"].act_bits) == (4, 5)
    assert (found["layer1.0.conv2"].weight_bits, found["layer1.0.conv2"].act_bits) == (None, None)
    assert (found["layer1.1.conv2"].weight_bits, found["layer1.1.conv2"].act_bits) == (8, None)
