"""Progressive quantization: training starts at 8 bits and lowers them to the final bits of the network.

References:
    [Zhuang2018] Towards effective low-bitwidth convolutional neural networks, arXiv 1711.00205 (Sec. 3.2).
"""

from __future__ import annotations

from spos_quant.space.bit_config import BitConfig
from spos_quant.space.search_space import SearchSpace
from spos_quant.train.paths import Paths, Step

LADDER = (8, 6, 4, 3)
"""The descending bit-widths. An operand has the maximum of its final bits and the current bit-width."""


def descent(space: SearchSpace, config: BitConfig, share: float, total: int) -> Paths:
    """The path of every training step, with descending bit-widths.

    The first `share` of the steps is divided evenly among the bit-widths of `LADDER` above the lowest final bits; the
    rest trains the bits of `config`. A step's path depends on its number alone (decision record 0009).

    Args:
        space: Contains the bit-widths of `LADDER` above the bits of `config`: `space.locked` with `extra_bits=LADDER`.
        config: The final bits.
        share: Share of the steps with raised bits, from 0 to 1.
        total: Steps of the training.
    """
    final = [b for layer in config.layers.values() for b in (layer.weight_bits, layer.act_bits) if b is not None]
    bit_widths = [bits for bits in LADDER if bits > min(final, default=max(LADDER))]
    paths = [Step((space.architecture(raised(config, bits)),)) for bits in bit_widths]
    end = Step((space.architecture(config),))
    steps = share * total

    def draw(step: int) -> Step:
        return paths[int(step * len(paths) / steps)] if step < steps and paths else end

    return draw


def raised(config: BitConfig, bits: int) -> BitConfig:
    """A copy of a configuration whose quantized operands have at least `bits` bits; float operands stay float."""
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
