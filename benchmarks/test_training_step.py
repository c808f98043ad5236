"""A training step of a quantized network against a float step.

Claim: at most 1.20 float steps in the same memory format; in channels-last format also at most one contiguous float
step, which is a user's default.
Lower bound: the float step. Stock Brevitas is measured too, on the same path, with the same numbers. Freed memory is
kept, as in a training, on both sides.
Missed: ResNet-18 against the contiguous float step. Its 11 million weights are quantized at every step for a batch of
64 small images, and channels last speeds up its convolutions less than those of ResNet-20.

    pytest benchmarks/test_training_step.py --benchmark-only -n0
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from networks import CASES, FORMATS, images, network
from torch import Tensor, nn

from spos_quant.supernet.fast import fast_steps

BESIDE = [
    ("contiguous", "contiguous", 1.2),
    ("channels_last", "channels_last", 1.2),
    ("channels_last", "contiguous", 1.0),
]
"""Memory format, memory format of the float step, target ratio."""


def stepper(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A function that runs forward and backward, without the optimizer."""
    parameters = list(model.parameters())  # listed once, as by an optimizer: listing a supernet's takes 10 ms

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        F.cross_entropy(model(x), y).backward()

    return step


@pytest.mark.parametrize(("ours", "theirs", "target"), BESIDE)
@pytest.mark.parametrize("kind", ["subnet", "supernet", "stock Brevitas"])
@pytest.mark.parametrize("case", CASES)
def test_training_step(
    against: Callable[..., float],
    tiny: bool,
    device: str,
    case: str,
    kind: str,
    ours: str,
    theirs: str,
    target: float,
) -> None:
    x = images(case, tiny).to(device)
    y = torch.randint(10, (len(x),), device=device)
    steps, models = [], []
    for name, memory in ((kind, FORMATS[ours]), ("float", FORMATS[theirs])):
        model, batch = network(case, name).train().to(device).to(memory_format=memory), x.to(memory_format=memory)
        steps.append(stepper(model, batch, y))
        models.append(model)
    with nullcontext() if kind == "stock Brevitas" else fast_steps(models[0], compiled=not tiny):
        against(*steps, f"float step, {theirs}", target if kind != "stock Brevitas" else None)


@pytest.mark.parametrize("case", CASES)
def test_bf16_step(against: Callable[..., float], tiny: bool, device: str, case: str) -> None:
    """A step under bf16 autocast (`precision: bf16-mixed`) against the same step in float32; numbers differ."""
    x = images(case, tiny).to(device).to(memory_format=torch.channels_last)
    y = torch.randint(10, (len(x),), device=device)
    ours, same = (network(case, "supernet").train().to(device).to(memory_format=torch.channels_last) for _ in range(2))

    def cast() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = F.cross_entropy(ours(x), y)
        loss.backward()

    with fast_steps(ours, compiled=not tiny), fast_steps(same, compiled=not tiny):
        against(cast, stepper(same, x, y), "the same step in float32")
