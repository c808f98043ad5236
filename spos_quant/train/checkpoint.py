"""Checkpoints: a training that stops at any moment resumes to the same result as an uninterrupted one.

Data order, paths and random numbers depend on (seed, step) alone. A checkpoint therefore holds the step, the model,
its weight average, the optimizer's momentum and the records so far, in one safetensors file replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.progress import remark
from spos_quant.supernet.weights import load_weights, named_tensors, read_weights, read_weights_metadata, save_tensors

_MODEL, _MOMENTUM, _AVERAGE = "model.", "momentum.", "average."


@dataclass
class TrainingProgress:
    """The progress of a training: its state outside of the model and the optimizer."""

    step: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    meter: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a training.

    Attributes:
        path: The file.
        identity: Everything the training depends on, as one string. A checkpoint of another identity is ignored.
    """

    path: Path
    identity: str

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        position: TrainingProgress,
        average: Mapping[str, Tensor],
    ) -> None:
        """Replaces the file. Raises `RunError` if it cannot be written."""
        tensors = {_MODEL + name: tensor for name, tensor in named_tensors(model)}
        tensors |= {_AVERAGE + name: tensor for name, tensor in average.items()}
        for name, parameter in model.named_parameters():
            momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[_MOMENTUM + name] = momentum
        metadata = {"identity": self.identity, "threads": torch.get_num_threads(), **vars(position)}
        save_tensors(tensors, self.path, metadata)

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]
    ) -> TrainingProgress:
        """Restores model, optimizer and average; returns the start position if this training has no checkpoint.

        Raises:
            RunError: the file is damaged.
        """
        if not self.path.exists():
            return TrainingProgress()
        metadata = read_weights_metadata(self.path)
        if metadata.pop("identity", None) != self.identity:
            remark(f"{self.path} is of another training and is ignored; this training starts from the beginning")
            return TrainingProgress()
        if metadata.pop("threads") != torch.get_num_threads():
            remark(
                f"{self.path} was made with another number of threads: last bits may differ from an uninterrupted run"
            )
        tensors = read_weights(self.path)
        own = {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
        load_weights(model, own, str(self.path))
        for name, parameter in model.named_parameters():
            if _MOMENTUM + name in tensors:
                optimizer.state[parameter]["momentum_buffer"] = tensors[_MOMENTUM + name].to(parameter.device)
        for name, value in average.items():
            value.copy_(tensors[_AVERAGE + name])
        return TrainingProgress(**metadata)
