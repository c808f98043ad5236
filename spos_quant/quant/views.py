"""Tensors in the shapes that kernels take, without copies if possible."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


class KernelView:
    """A tensor in the shape that kernels take: flat, or one row per scale, in its own memory order.

    Thus neither a channels-last tensor nor the result is copied to another memory order and back.

    Args:
        x: The tensor.
        scales: The shape of its scales, which broadcasts with `x`: one scale, or one per index of a dimension.
    """

    def __init__(self, x: Tensor, scales: tuple[int, ...]) -> None:
        self.shape = x.shape
        self.one = prod(scales) == 1
        self.axis = 0 if self.one else max(range(len(scales)), key=lambda dim: scales[dim])
        last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        self.channels_last = last and self.axis == 0

    def of(self, x: Tensor) -> Tensor:
        """`x` as `[n]` or `[C, n]`, contiguous; a view if possible."""
        x = x.permute(0, 2, 3, 1) if self.channels_last else x
        if self.one:
            return x.reshape(-1).contiguous()
        return x.movedim(self.axis, 0).reshape(x.shape[self.axis], -1).contiguous()

    def scale(self, scale: Tensor) -> Tensor:
        """`scale` as a scalar or `[C, 1]`."""
        return scale.reshape(()) if self.one else scale.reshape(-1, 1).contiguous()

    def back(self, y: Tensor) -> Tensor:
        """A kernel's result in the shape of the tensor."""
        if self.channels_last:
            n, c, h, w = self.shape
            return y.view(n, h, w, c).permute(0, 3, 1, 2)
        if self.one:
            return y.view(self.shape)
        moved = [self.shape[self.axis], *(size for dim, size in enumerate(self.shape) if dim != self.axis)]
        return y.view(moved).movedim(0, self.axis)
