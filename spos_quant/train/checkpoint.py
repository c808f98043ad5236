"""Checkpoints: a training that stops at any moment goes on as if nothing had happened.

Data order, paths and random numbers follow from (seed, step). So what must be kept is the step, the model and its
average, the optimizer's momentum and the records so far, in one safetensors file that is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.progress import remark
from spos_quant.supernet.weights import load_weights, named_tensors, read_saved_metadata, read_weights, save_tensors

_MODEL, _MOMENTUM, _AVERAGE = "model.", "momentum.", "average."


@dataclass
class Position:
    """How far a training is: what is not in the model or the optimizer."""

    step: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    meter: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a training.

    Attributes:
        path: The file.
        identity: What the training depends on, as one string: another training's checkpoint is not gone on from.
    """

    path: Path
    identity: str

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position, average: Mapping[str, Tensor]
    ) -> None:
        """Replaces the file. Raises `RunError` where it cannot be written."""
        tensors = {_MODEL + name: tensor for name, tensor in named_tensors(model)}
        tensors |= {_AVERAGE + name: tensor for name, tensor in average.items()}
        for name, parameter in model.named_parameters():
            momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[_MOMENTUM + name] = momentum
        said = {"identity": self.identity, "threads": torch.get_num_threads(), **vars(position)}
        save_tensors(tensors, self.path, said)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]) -> Position:
        """Puts model, optimizer and average where the training stopped; the start where there is no checkpoint of it.

        Raises:
            RunError: the file is damaged.
        """
        if not self.path.exists():
            return Position()
        said = read_saved_metadata(self.path)
        if said.pop("identity", None) != self.identity:
            remark(f"{self.path} is of another training, which is not gone on with")
            return Position()
        if said.pop("threads") != torch.get_num_threads():
            remark(f"{self.path} was made with another number of threads: last bits may differ from one training")
        tensors = read_weights(self.path)
        own = {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
        load_weights(model, own, str(self.path))
        for name, parameter in model.named_parameters():
            if _MOMENTUM + name in tensors:
                optimizer.state[parameter]["momentum_buffer"] = tensors[_MOMENTUM + name].to(parameter.device)
        for name, value in average.items():
            value.copy_(tensors[_AVERAGE + name])
        return Position(**said)
