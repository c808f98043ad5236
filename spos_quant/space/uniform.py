"""The uniform baselines of a search space: all searchable layers at the same bits."""

from __future__ import annotations

from spos_quant.errors import SpaceError
from spos_quant.space.search_space import Architecture, SearchSpace


def uniform_architectures(space: SearchSpace) -> dict[str, Architecture]:
    """The uniform bit configurations that are architectures of the space, by name (`w4a4`).

    A pair is left out if, in some layer or block, the pair, the backbone's own operator or width 1.0 is no candidate.
    """
    found = {}
    for pair in offered_pairs(space):
        try:
            found[f"w{pair[0]}a{pair[1]}"] = space.uniform(*pair)
        except SpaceError:
            continue
    return found


def offered_pairs(space: SearchSpace) -> list[tuple[int, int]]:
    """Every pair of weight and activation bits that some layer of the space can have."""
    pairs = set()
    for layer in space.layers:
        if layer.weight.axis is not None and layer.weight.axis == layer.act.axis:
            pairs |= set(zip(layer.weight.values, layer.act.values, strict=True))
        else:
            pairs |= {(w, a) for w in layer.weight.values for a in layer.act.values}
    return sorted((w, a) for w, a in pairs if w is not None and a is not None)
