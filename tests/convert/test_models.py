"""`sq.quantize` on published and other networks; the numbers are in docs/models.md."""

from __future__ import annotations

import pytest
from zoo_cases import FAST, NAMES, examine


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_network(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    found = examine(name)
    assert found.float_equal
    assert found.subnet_equal
    assert found.macs_equal
    assert found.survives
    assert found.agreement >= 0.9
    assert found.relative_error < 0.75
    assert found.layers > 2
