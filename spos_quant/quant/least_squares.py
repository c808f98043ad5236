"""The weight scale of least squared error per output channel, without a search: weight quantizer `mse`.

For given codes q the best scale is <w, q> / <q, q>; for a given scale the best codes are the nearest levels. As in
Lloyd's algorithm, alternating the two can only lower the error. A few iterations from several starts end within some
percent of a fine grid search. They are cheap enough for every forward pass, so the quantizer stays stateless and
follows slices.

References:
    [Lloyd1982] S. Lloyd, Least squares quantization in PCM, IEEE Trans. Information Theory 28, 1982.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.quant.quantizers import PerChannel, absmax, weight_quantizers

_STARTS = (1.0, 0.8, 0.62, 0.46, 0.33)
"""Initial clips, as shares of the largest magnitude."""
_ITERATIONS = 6


class LeastSquares(nn.Module):
    """The clip per channel with the least squared error of rounding to 2^(b-1) - 1 levels on each side of zero.

    Args:
        mse_bits: The bit-width, 2 to 8.
    """

    def __init__(self, mse_bits: int) -> None:
        super().__init__()
        self.qmax = 2 ** (mse_bits - 1) - 1

    def forward(self, x: Tensor) -> Tensor:
        """`[C]` clips of `[C, n]` weights."""
        with torch.no_grad():
            codes = self._codes(x)
        energy = codes.square().sum(1)
        # The scale of a channel of zeros is 0 here; Brevitas keeps it positive.
        scale = (x * codes).sum(1) / energy.clamp_min(1.0)
        clip: Tensor = scale * self.qmax
        return clip

    def _codes(self, x: Tensor) -> Tensor:
        """`[C, n]` codes of the best start."""
        starts = torch.tensor(_STARTS, device=x.device, dtype=x.dtype)
        peak = x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        scale = starts[:, None, None] * peak / self.qmax  # [S, C, 1]
        codes = self._nearest(x, scale)
        for _ in range(_ITERATIONS):
            fit = (x * codes).sum(2, keepdim=True) / codes.square().sum(2, keepdim=True).clamp_min(1.0)
            scale = torch.where(fit > 0, fit, scale)
            codes = self._nearest(x, scale)
        # With the best scale for the codes, the squared error is |w|^2 - <w, q>^2 / <q, q>.
        explained = (x * codes).sum(2).square() / codes.square().sum(2).clamp_min(1.0)  # [S, C]
        best = explained.argmax(0)
        return codes[best, torch.arange(x.shape[0], device=x.device)]

    def _nearest(self, x: Tensor, scale: Tensor) -> Tensor:
        return (x / scale).round().clamp(-self.qmax, self.qmax)


@weight_quantizers.register("mse")
def mse(bits: int) -> Any:
    """The scale of least squared error per output channel at 2 to 8 bits, mean|w| (the same) at 1 bit; stateless."""
    if bits == 1:
        return absmax(bits)
    return PerChannel.let(bit_width=bits, scaling_stats_impl=LeastSquares, mse_bits=bits)
