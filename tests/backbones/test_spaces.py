"""Every built-in search space on small pictures, held against the contract that plug-ins are held against."""

from __future__ import annotations

import pytest

from spos_quant.backbones.build import builtin_spaces, load_spec, space_of
from spos_quant.space.spec import SpaceSpec
from spos_quant.testing import check_space

FAST = ("digits-blocks", "resnet20-mixed", "shufflenetv2-blocks", "nasbench201")
"""One of each shape of block; the others, dear to build, are in the slow suite."""


def small(name: str) -> SpaceSpec:
    spec = load_spec(name)
    side = min(spec.input[1], 32)
    return spec.model_copy(update={"input": (spec.input[0], side, side), "classes": 10})


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in builtin_spaces()]
)
def test_contract(name: str) -> None:
    check_space(space_of(small(name)), paths=1)
