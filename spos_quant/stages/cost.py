"""`spos-quant cost`: costs of architectures. Does not load torch if the network shapes are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spos_quant.cost.budget import cost_range
from spos_quant.cost.metrics import formula_metrics
from spos_quant.cost.rows import architecture_rows, config_rows, space_summary
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.space.bit_config import BitConfig, parse_uniform, read_bit_config
from spos_quant.space.search_space import SearchSpace


def space_cost(space: SearchSpace) -> dict[str, Any]:
    """`space, size, cheapest, dearest`; the last two map every metric to its minimum and maximum over the space."""
    table = CostTable(space)
    ends = {name: cost_range(table, name) for name in formula_metrics()}
    cheapest: dict[str, int | None] = {name: low for name, (low, _) in ends.items()}
    most_expensive: dict[str, int | None] = {name: high for name, (_, high) in ends.items()}
    for name in ends:
        if not table.applies(name):
            cheapest[name] = most_expensive[name] = None
    return {"space": space.name, "size": space.size, "cheapest": cheapest, "dearest": most_expensive}


def architecture_cost(
    space: SearchSpace, *, uniform: str | None = None, bits: str | None = None, arch: str | None = None
) -> dict[str, Any]:
    """Costs of one architecture or bit configuration, by layer; `notation` is its name in another project, if any.

    Raises:
        ConfigError: not exactly one was given, or the text is invalid.
    """
    if sum(given is not None for given in (uniform, bits, arch)) != 1:
        raise ConfigError("give one of --uniform, --bits and --arch")
    if arch is not None:
        architecture = space.decode(arch)
        return _summary(space, architecture_rows(space, architecture), space.encode(architecture))
    config = _config(space, uniform, bits)
    return _summary(space, config_rows(space, config), _encoded(space, config))


def _config(space: SearchSpace, uniform: str | None, bits: str | None) -> BitConfig:
    text = uniform if uniform is not None else bits
    assert text is not None
    pair = parse_uniform(text)
    if pair is not None:
        return space.uniform_config(*pair)
    if uniform is not None:
        raise ConfigError(f"--uniform {uniform!r}: expected bits such as w4a4, or `float`")
    return read_bit_config(Path(text))


def _encoded(space: SearchSpace, config: BitConfig) -> str | None:
    try:
        return space.encode(space.architecture(config))
    except SpaceError:
        return None  # only costed: not an architecture of this space


def _summary(space: SearchSpace, rows: Any, architecture: str | None) -> dict[str, Any]:
    found = space_summary(space, rows, architecture)
    notation = None if architecture is None else space.notation(space.decode(architecture))
    return found if notation is None else {**found, "notation": notation}
