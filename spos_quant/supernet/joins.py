"""How the operator of a choice block is combined with its shortcut: a residual sum, a concatenation, or not at all.

A join is a function of the block's input, of up to two branches and of the layer that reads the result first. The
shortcut runs first, so that a convolution in it owns the input quantizer that it shares with the active operator. A new
type of block is a new function here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spos_quant.quant.fused_add import residual_sum

Branch = Callable[[Tensor], Tensor]
Join = Callable[[Tensor, Branch | None, Branch | None, nn.Module | None], Tensor]
"""`(x, operator, shortcut, reader) -> y`; the operator is None for a skip, the shortcut is None for the identity.

The reader is the layer that reads y first, so that a sum can be quantized in the same kernel during training; None if
it is unknown. It does not affect y.
"""


def residual(x: Tensor, main: Branch | None, shortcut: Branch | None, reader: nn.Module | None = None) -> Tensor:
    """`main(x) + shortcut(x)` (MobileNetV2, arXiv 1801.04381); a skip gives `shortcut(x)`."""
    beside = x if shortcut is None else shortcut(x)
    return beside if main is None else residual_sum(main(x), beside, reader, relu=False)


def residual_relu(x: Tensor, main: Branch | None, shortcut: Branch | None, reader: nn.Module | None = None) -> Tensor:
    """`relu(main(x) + shortcut(x))` (ResNet, arXiv 1512.03385)."""
    beside = x if shortcut is None else shortcut(x)
    return beside.relu() if main is None else residual_sum(main(x), beside, reader, relu=True)


def chain(x: Tensor, main: Branch | None, _shortcut: Branch | None, _reader: nn.Module | None = None) -> Tensor:
    """`main(x)` alone; a skip is the identity."""
    return x if main is None else main(x)


def split(x: Tensor, main: Branch | None, _shortcut: Branch | None, _reader: nn.Module | None = None) -> Tensor:
    """Even channels pass unchanged, odd ones go through `main` (ShuffleNetV2, arXiv 1807.11164, at stride 1).

    Taking every second channel is the channel shuffle of the preceding block.
    """
    return torch.cat((x[:, ::2], chain(x[:, 1::2], main, None)), 1)


def concatenate(x: Tensor, main: Branch | None, shortcut: Branch | None, _reader: nn.Module | None = None) -> Tensor:
    """`shortcut(x)` and `main(x)`, concatenated over channels (ShuffleNetV2 at stride 2)."""
    beside = x if shortcut is None else shortcut(x)
    return torch.cat((beside, chain(x, main, None)), 1)
