"""Calibration of the activation clips: the clip of least squared error for every bit-width."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spos_quant.errors import ModelError
from spos_quant.quant.switch import InputQuantizer
from spos_quant.sampling_stride import stride
from spos_quant.supernet.network import named_blocks
from spos_quant.supernet.supernet import Supernet

_GRID = 46
"""Number of clips that are tried, from a tenth of the largest magnitude to all of it."""
_VALUES = 16_384
"""Number of values of a tensor on which a clip is evaluated."""
_Sample = tuple[Tensor, Tensor]
"""Some values of a tensor, and its smallest and largest."""


@torch.no_grad()
def calibrate_clips(
    supernet: Supernet,
    images: Tensor | Sequence[tuple[Any, ...]],
    only: set[InputQuantizer] | None = None,
    *,
    running_statistics: bool = False,
) -> None:
    """Sets every clip from float passes: every operator at its largest width, all blocks at once.

    Args:
        supernet: Its active path and modes are restored.
        images: `[N, C, H, W]`, augmented as in training; a few hundred suffice. Or batches of other inputs.
        only: The quantizers to set; None is all.
        running_statistics: Whether BatchNorm normalizes by running statistics, as a trained network has them, or by
            those of the batch.

    Raises:
        ModelError: an input that was declared never negative is negative.
    """
    before = supernet.architecture
    modes = {module: module.training for module in supernet.modules()}
    owners = supernet.input_quantizers()
    wanted = set(owners) if only is None else only
    seen: dict[InputQuantizer, list[_Sample]] = {}
    statistics = {name: buffer.clone() for name, buffer in supernet.named_buffers() if _is_statistic(name)}
    supernet.train(not running_statistics)
    device = next(supernet.parameters()).device
    with ExitStack() as stack:
        for quantizer, layers in owners.items():
            for layer in layers:
                hook = _Record(quantizer, seen)
                stack.callback(layer.register_forward_pre_hook(hook).remove)
        for path in _covering_paths(supernet):
            supernet.activate(path)
            supernet.activate_float()
            for inputs in [(images,)] if isinstance(images, Tensor) else images:
                supernet(*(x.to(device) if isinstance(x, Tensor) else x for x in inputs))
    for name, buffer in supernet.named_buffers():
        if name in statistics:
            buffer.copy_(statistics[name])
    for module, mode in modes.items():
        module.training = mode
    supernet.activate(before)
    for quantizer in wanted:
        samples, extremes = zip(*seen[quantizer], strict=True)
        _set_clips(quantizer, torch.cat(samples), torch.cat(extremes))


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


class _Record:
    """A hook that keeps a sample of a layer's input."""

    def __init__(self, quantizer: InputQuantizer, seen: dict[InputQuantizer, list[_Sample]]) -> None:
        self.quantizer, self.seen = quantizer, seen

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().flatten()
        kept = values[:: stride(len(values), _VALUES)]
        extremes = torch.stack((values.min(), values.max()))
        self.seen.setdefault(self.quantizer, []).append((kept, extremes))


def _covering_paths(supernet: Supernet) -> list[tuple[int, ...]]:
    """Architectures at the largest width that together use every operator of every block."""
    space = supernet.space
    deepest = max((len(block.op_names) for block in named_blocks(supernet.body).values()), default=1)
    paths = []
    for turn in range(deepest):
        indices = [0] * len(space.axes)
        for i, axis in enumerate(space.axes):
            if axis.kind == "op":
                indices[i] = min(turn, len(axis.candidates) - 1)
            elif axis.kind == "width":
                indices[i] = int(np.argmax(axis.candidates))
        paths.append(space.canonical(indices))
    return paths


def _set_clips(quantizer: InputQuantizer, values: Tensor, extremes: Tensor) -> None:
    if not quantizer.signed and float(extremes.min()) < 0:
        raise ModelError("an activation that was declared never negative is negative; declare the layer signed")
    peak = float(extremes.abs().max())
    for bits in map(int, quantizer.by_bits):
        clip = quantizer.clip(bits)
        if peak == 0:
            continue  # the input is zero everywhere: keep the initial clip
        grid = torch.linspace(0.1, 1.0, _GRID, device=values.device) * peak
        errors = []
        for candidate in grid:
            clip.copy_(candidate)
            errors.append((quantizer(values, bits) - values).square().mean())
        clip.copy_(grid[int(torch.stack(errors).argmin())])
