"""Runs the checks for plug-in spaces (`check_space`) on every built-in search space, with small images."""

from __future__ import annotations

import numpy as np
import pytest

from spos_quant.backbones.build import build, builtin_spaces, load_spec, space_of
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.network import places
from spos_quant.testing import check_space

FAST = ("digits-blocks", "resnet20-mixed", "shufflenetv2-blocks", "nasbench201")
"""One space per type of block; the others are expensive to build and run in the slow suite."""


def small(name: str) -> SpaceSpec:
    spec = load_spec(name)
    side = min(spec.input[1], 32)
    return spec.model_copy(update={"input": (spec.input[0], side, side), "classes": 10})


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in builtin_spaces()]
)
def test_contract(name: str) -> None:
    check_space(space_of(small(name)), paths=1)


@pytest.mark.parametrize("name", ["mobilenetv2-mixed", "mobilenetv3-mixed"])
def test_exactly_the_layers_that_are_commonly_kept_at_8_bits_are_locked(name: str) -> None:
    """First and last layer, depthwise convolutions (identified by their groups) and squeeze-and-excitation."""
    space = space_of(small(name))
    groups = {slot.name: slot.layer.groups for slot in places(build(space).body)}
    names = [layer.name for layer in space.layers]
    wanted = {n for n in names if groups[n] > 1 or n.endswith((".fc1", ".fc2"))} | {names[0], names[-1]}
    assert {layer.name for layer in space.layers if layer.weight.axis is None} == wanted
    layers = space.bit_config(space.sample(np.random.default_rng(0))).layers
    assert all((layers[n].weight_bits, layers[n].act_bits) == (8, 8) for n in wanted)
    assert len(space.axes) == len(names) - len(wanted) > 30
