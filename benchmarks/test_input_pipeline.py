"""Input pipeline: preparing a batch against training on it.

Claim: cropping, mirroring and normalising a batch takes less than 5 % of the training step on that batch, on the same
CPU.
Lower bound: none.

    pytest benchmarks/test_input_pipeline.py --benchmark-only -n0
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from networks import CASES, network
from test_training_step import stepper

from spos_quant.data import load_data
from spos_quant.supernet.fast import fast_steps
from spos_quant.train.batches import TrainingBatches


def test_batch(against: Callable[..., float], tiny: bool) -> None:
    _, side, count = CASES["resnet20"]
    data = load_data("fake", input=(3, side, side), classes=10, seed=0)
    steps = TrainingBatches(data, 4 if tiny else count, seed=0)
    model = network("resnet20", "supernet").train().to(memory_format=torch.channels_last)
    x, y = steps[0]
    with fast_steps(model, compiled=not tiny):
        against(lambda: steps[1], stepper(model, x, y), "quantized step of ResNet-20", 0.05)
