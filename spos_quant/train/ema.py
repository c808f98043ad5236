"""The average of the weights over the steps of a training, which often scores higher than the last weights.

References:
    [Polyak1992] B. Polyak, A. Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control 30.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average (EMA) of all parameters of a model.

    BatchNorm statistics are not averaged. They belong to the last weights, so recalibrate the model after `put`.

    Args:
        model: Its parameters initialize the average.
        decay: Weight of the previous average per step, in (0, 1). Step t uses at most (1 + t) / (10 + t), so that the
            initial weights are forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Updates the average with the parameters after step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.model.named_parameters():
            self.values[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def put(self) -> None:
        """Copies the average into the parameters of the model."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.values[name])
