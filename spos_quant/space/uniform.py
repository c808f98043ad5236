"""The uniform baselines of a search space: all searchable layers at the same bits."""

from __future__ import annotations

from spos_quant.errors import SpaceError
from spos_quant.space.search_space import Architecture, SearchSpace


def uniform_architectures(space: SearchSpace) -> dict[str, Architecture]:
    """The uniform bit configurations that are architectures of the space, by names such as `w4a4`.

    Those are left out for which the backbone's own operator, width 1.0 or the pair itself is no candidate somewhere.
    """
    found = {}
    for pair in offered_pairs(space):
        try:
            found[f"w{pair[0]}a{pair[1]}"] = space.uniform(*pair)
        except SpaceError:
            continue
    return found


def offered_pairs(space: SearchSpace) -> list[tuple[int, int]]:
    """Every pair of weight and activation bits that some layer of the space may have."""
    pairs = set()
    for place in space.layers:
        if place.weight.axis is not None and place.weight.axis == place.act.axis:
            pairs |= set(zip(place.weight.values, place.act.values, strict=True))
        else:
            pairs |= {(w, a) for w in place.weight.values for a in place.act.values}
    return sorted((w, a) for w, a in pairs if w is not None and a is not None)
