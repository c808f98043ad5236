"""The weight step of least squared error per output channel, without a search: weights quantizer `mse`.

For given codes q the best step is <w, q> / <q, q>; for a given step the best codes are the nearest levels. Taking turns
can only lower the error, as in Lloyd's algorithm, and a few turns from several starts end within some percent of
what a fine grid finds: cheap enough for every forward pass, so that the quantizer stays stateless and follows slices.

References:
    [Lloyd1982] S. Lloyd, Least squares quantization in PCM, IEEE Trans. Information Theory 28, 1982.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.quant.quantizers import PerChannel, absmax, weight_quantizers

_STARTS = (1.0, 0.8, 0.62, 0.46, 0.33)
"""Shares of the largest magnitude that the largest level starts at."""
_TURNS = 6


class LeastSquares(nn.Module):
    """The largest level per channel that makes the squared error of rounding to 2^(b-1) - 1 levels a side least.

    Args:
        mse_bits: The bit-width, 2 to 8.
    """

    def __init__(self, mse_bits: int) -> None:
        super().__init__()
        self.top = 2 ** (mse_bits - 1) - 1

    def forward(self, x: Tensor) -> Tensor:
        """`[C]` largest levels of `[C, n]` weights."""
        with torch.no_grad():
            codes = self._codes(x)
        energy = codes.square().sum(1)
        # Of a channel of zeros nothing is known; Brevitas keeps its step above zero.
        step = (x * codes).sum(1) / energy.clamp_min(1.0)
        largest: Tensor = step * self.top
        return largest

    def _codes(self, x: Tensor) -> Tensor:
        """`[C, n]` codes of the best start."""
        starts = torch.tensor(_STARTS, device=x.device, dtype=x.dtype)
        peak = x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        step = starts[:, None, None] * peak / self.top  # [S, C, 1]
        codes = self._nearest(x, step)
        for _ in range(_TURNS):
            fit = (x * codes).sum(2, keepdim=True) / codes.square().sum(2, keepdim=True).clamp_min(1.0)
            step = torch.where(fit > 0, fit, step)
            codes = self._nearest(x, step)
        # With the best step for its codes, an error is |w|^2 - <w, q>^2 / <q, q>.
        kept = (x * codes).sum(2).square() / codes.square().sum(2).clamp_min(1.0)  # [S, C]
        best = kept.argmax(0)
        return codes[best, torch.arange(x.shape[0], device=x.device)]

    def _nearest(self, x: Tensor, step: Tensor) -> Tensor:
        return (x / step).round().clamp(-self.top, self.top)


@weight_quantizers.register("mse")
def mse(bits: int) -> Any:
    """The step of least squared error per output channel at 2 to 8 bits, mean|w| (the same) at 1 bit; stateless."""
    if bits == 1:
        return absmax(bits)
    return PerChannel.let(bit_width=bits, scaling_stats_impl=LeastSquares, mse_bits=bits)
