"""A search space with a single architecture: the network that a bit configuration describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spos_quant.space.bit_config import BitConfig
from spos_quant.space.search_space import SearchSpace
from spos_quant.space.spec import Bits, SpaceSpec, parse_spec


def locked_spec(space: SearchSpace, config: BitConfig, extra_bits: Sequence[int] = ()) -> SpaceSpec:
    """The space with one candidate per axis, taken from `config` even if the space does not offer it.

    Layers that `config` quantizes are removed from `keep_float`. Other float layers stay searchable with one float
    candidate, so that they still count towards BitOps.

    Args:
        space: The space of the network.
        config: Any bit-widths.
        extra_bits: Bit-widths to add as candidates to every quantized operand whose own bits are lower. The operand's
            own bits stay the first candidate.

    Raises:
        SpaceError: the configuration names blocks or layers that the network does not have.
    """
    space.check_names(config)
    overrides: dict[str, dict[str, Any]] = {}
    own = dict(zip((b.name for b in space.network_shapes.blocks), space.network_shapes.reference_ops, strict=True))
    for block, own_op in own.items():
        choice = config.blocks.get(block)
        overrides[block] = {
            "op": [choice.op if choice else own_op],
            "width": [choice.width if choice else 1.0],
        }
    keep_float = []
    for name, bits in config.layers.items():
        if (bits.weight_bits, bits.act_bits) == (None, None) and not _searchable(space, name):
            keep_float.append(name)
        else:
            # Two axes: layers that read the same tensor share activation bits but not weight bits.
            overrides.setdefault(name, {}).update(
                weight_bits=_with_higher(bits.weight_bits, extra_bits), act_bits=_with_higher(bits.act_bits, extra_bits)
            )
    raw = space.spec.model_dump(mode="json")
    raw |= {
        "axes": {"weight_bits": [None], "act_bits": [None]},
        "bits_per": "layer",
        "keep_float": keep_float,
        "overrides": overrides,
        "groups": [],
        "quantizer": config.quantizer or space.spec.retrain_quantizer,
    }
    return parse_spec(raw, f"{space.name} locked")


def _with_higher(own: Bits, extra_bits: Sequence[int]) -> list[Bits]:
    return [own, *(b for b in extra_bits if own is not None and b > own)]


def _searchable(space: SearchSpace, name: str) -> bool:
    if space.spec.full_precision:
        return False
    return any(x.quantized for x in space.layers if x.name == name) or space.default_bits.get(name, False)
