"""Progressive bits: a network starts at 8 bits and comes down to its own, so that rounding sets in step by step.

References:
    [Zhuang2018] Towards effective low-bitwidth convolutional neural networks, arXiv 1711.00205 (Sec. 3.2).
"""

from __future__ import annotations

from spos_quant.space.bit_config import BitConfig
from spos_quant.space.search_space import SearchSpace
from spos_quant.train.paths import Paths, Step

LADDER = (8, 6, 4, 3)
"""Bit-widths on the way down: an operand takes the highest of its own and the current one."""


def descent(space: SearchSpace, config: BitConfig, share: float, total: int) -> Paths:
    """The path of every step of a training along the ladder.

    The first `share` of the steps is divided evenly among the bit-widths of the ladder that some operand is below; the
    rest trains the bits of `config`. A step's path follows from its number alone (decision record 0009).

    Args:
        space: Offers the ladder above the bits of `config`: `space.locked` with `extra_bits=LADDER`.
        config: Where the descent ends.
        share: From 0 to 1.
        total: Steps of the training.
    """
    own = [b for layer in config.layers.values() for b in (layer.weight_bits, layer.act_bits) if b is not None]
    rungs = [bits for bits in LADDER if bits > min(own, default=max(LADDER))]
    paths = [Step((space.architecture(raised(config, bits)),)) for bits in rungs]
    end = Step((space.architecture(config),))
    steps = share * total

    def draw(step: int) -> Step:
        return paths[int(step * len(paths) / steps)] if step < steps and paths else end

    return draw


def raised(config: BitConfig, bits: int) -> BitConfig:
    """A configuration whose quantized operands have at least so many bits."""
    layers = {
        name: layer.model_copy(
            update={
                key: None if own is None else max(own, bits)
                for key, own in (("weight_bits", layer.weight_bits), ("act_bits", layer.act_bits))
            }
        )
        for name, layer in config.layers.items()
    }
    return config.model_copy(update={"layers": layers})
