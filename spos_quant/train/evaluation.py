"""Evaluation of a path or a model: BatchNorm recalibration, then accuracy and loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from spos_quant.errors import ConfigError
from spos_quant.quant.switch import SwitchBatchNorm2d


@dataclass(frozen=True)
class Score:
    """Accuracy and loss of a model on a split."""

    top1: float
    """Top-1 accuracy, in [0, 1]."""
    loss: float
    """Mean cross-entropy in nats."""
    n: int
    """Number of images."""


def batch_norms(module: nn.Module) -> list[Any]:
    """All layers of a module with running statistics: BatchNorm (switchable or plain) and InstanceNorm."""
    found = [m for m in module.modules() if isinstance(m, (SwitchBatchNorm2d, _NormBase))]
    return [m for m in found if m.running_mean is not None]  # layers may have none


def ensure_eval(module: nn.Module) -> None:
    """Sets evaluation mode unless it is set: `eval()` visits thousands of submodules of a supernet."""
    if module.training:
        module.eval()


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[object], norms: list[Any] | None = None) -> None:
    """Recomputes BatchNorm statistics as the plain average over `batches` ([Guo2020], Sec. 3.4).

    Only layers on the active path change. The module is left in evaluation mode.

    Args:
        module: A supernet with an active path, or any model.
        batches: Images, or pairs whose first item is images; augmented as in training.
        norms: The BatchNorm layers, if already known to the caller.

    Raises:
        ConfigError: there are no batches, or an iterator is exhausted.
    """
    norms = batch_norms(module) if norms is None else norms
    before = [norm.momentum for norm in norms]
    ensure_eval(module)
    device = next(module.parameters()).device
    seen = 0
    try:
        for norm in norms:
            norm.training = True
        for item in batches:
            seen += 1
            x = item[0] if isinstance(item, (tuple, list)) else item
            assert isinstance(x, Tensor)
            for norm in norms:
                norm.momentum = 1.0 / seen  # momentum 1 / i makes the running value the plain average of i batches
            module(x.to(device))
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.training = False
    if not seen:
        raise ConfigError("recalibration got no batches; give a list or a loader that can be iterated over many times")


@torch.no_grad()
def score(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Accuracy and loss of a module on batches of images and labels. The module is left in evaluation mode."""
    ensure_eval(module)
    device = next(module.parameters()).device
    # Accumulated on the device: every transfer to the host synchronizes a GPU.
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss, n = torch.zeros((), dtype=torch.float64, device=device), 0
    for x, y in batches:
        logits = module(x.to(device)).float()
        target = y.to(device)
        correct += (logits.argmax(1) == target).sum()
        loss += F.cross_entropy(logits, target, reduction="sum").double()
        n += len(y)
    return Score(int(correct) / max(n, 1), float(loss) / max(n, 1), n)
