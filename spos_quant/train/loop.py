"""The one training loop: a supernet along one uniform path per step, or a subnet.

References:
    [Guo2020] Single Path One-Shot NAS, arXiv 1904.00420: uniform sampling of one path per step (Sec. 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from spos_quant.config import TrainConfig
from spos_quant.data import DataSet
from spos_quant.errors import ConfigError, ModelError
from spos_quant.progress import progress
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.batches import TrainingSteps, loader

_PATH_STREAM = 3
EpochRecord = Mapping[str, float | int]


@dataclass(frozen=True)
class Training:
    """What a training is: data, seed and settings, and what it says of itself."""

    data: DataSet
    config: TrainConfig
    seed: int
    label: str
    show: bool = True


def make_fabric(config: TrainConfig, device: str) -> Fabric:
    """Lightning Fabric for a device name: `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: the device is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {device!r}; expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: this machine has no CUDA device that torch can use; give --device cpu or auto"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and config.devices > torch.cuda.device_count():
        raise ConfigError(f"train.devices={config.devices}: this machine has {torch.cuda.device_count()} CUDA devices")
    # One path a step leaves most parameters of a supernet without a gradient.
    strategy: Any = DDPStrategy(find_unused_parameters=True) if config.devices > 1 else "auto"
    precision: Any = config.precision
    fabric = Fabric(accelerator=device, devices=config.devices, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


def fit(
    fabric: Fabric,
    model: nn.Module,
    training: Training,
    *,
    teacher: nn.Module | None = None,
    before_step: Callable[[nn.Module, int], None] | None = None,
) -> list[EpochRecord]:
    """Trains a model in place and returns one record per epoch (`epoch`, `loss`, `top1`, `lr`).

    Parameters that no active layer uses get no gradient and are left out of the step: neither weight decay nor momentum
    moves them.

    Args:
        fabric: Device, precision and ranks.
        model: A supernet or any model of images to logits.
        training: Data and settings.
        teacher: The float model that `config.distill` compares with.
        before_step: Called with the model and the step, to choose a path.

    Raises:
        ModelError: the loss is not finite.
    """
    config = training.config
    steps = TrainingSteps(
        training.data, config.batch_size, training.seed, rank=fabric.global_rank, world_size=fabric.world_size
    )
    optimizer = make_optimizer(model, config)
    model.to(fabric.device)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    if teacher is not None:
        teacher.to(fabric.device).eval()
    total = config.epochs * steps.per_epoch
    records: list[EpochRecord] = []
    meter = _Meter()
    show = training.show and fabric.global_rank == 0
    wrapped.train()
    with progress(training.label, total, unit="steps", show=show) as tick:
        for step, (x, y) in zip(range(total), loader(steps, 0, total, config.data_workers), strict=True):
            x, y = x.to(fabric.device), y.to(fabric.device)
            set_lr(optimizer, learning_rate(step, total, steps.per_epoch, config))
            if before_step is not None:
                before_step(model, step)
            logits = wrapped(x)
            loss = loss_of(logits, y, config, None if teacher is None else _answers(teacher, x))
            if not isfinite(meter.add(loss, logits, y)):
                raise ModelError(_not_finite(model, training.label, step))
            wrapped_optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            if config.clip_grad:
                fabric.clip_gradients(wrapped, wrapped_optimizer, max_norm=config.clip_grad, error_if_nonfinite=False)
            wrapped_optimizer.step()
            if (step + 1) % steps.per_epoch == 0:
                records.append(meter.record(len(records) + 1, optimizer.param_groups[0]["lr"]))
            tick(f"loss {meter.last:.3f}")
    model.eval()
    return records


def uniform_path(seed: int) -> Callable[[nn.Module, int], None]:
    """Activates a uniformly drawn architecture per step; the draw follows from (seed, step) alone."""

    def choose(model: nn.Module, step: int) -> None:
        assert isinstance(model, Supernet)
        model.activate(model.space.sample(np.random.default_rng([seed, _PATH_STREAM, step])))

    return choose


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on weights of convolutions and linear layers only."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def learning_rate(step: int, total: int, per_epoch: int, config: TrainConfig) -> float:
    """Linear warm-up to `config.lr`, then a cosine to 0 at the end of the last step."""
    warmup = min(round(config.warmup_epochs * per_epoch), total // 2)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    return config.lr * 0.5 * (1 + cos(pi * (step - warmup) / max(total - warmup, 1)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def loss_of(logits: Tensor, y: Tensor, config: TrainConfig, answers: Tensor | None) -> Tensor:
    """Cross-entropy with label smoothing, mixed with the divergence from a teacher's answers.

    Args:
        logits: `[n, classes]`.
        y: `[n]` labels.
        config: `label_smoothing` and `distill`, the share of the second part.
        answers: `[n, classes]` logits of the teacher.
    """
    loss = F.cross_entropy(logits.float(), y, label_smoothing=config.label_smoothing)
    if answers is None or config.distill == 0:
        return loss
    divergence = F.kl_div(
        F.log_softmax(logits.float(), 1), F.log_softmax(answers.float(), 1), reduction="batchmean", log_target=True
    )
    return (1 - config.distill) * loss + config.distill * divergence


@torch.no_grad()
def _answers(teacher: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = teacher(x)
    return logits


def _not_finite(model: nn.Module, label: str, step: int) -> str:
    path = f" on path {model.space.encode(model.architecture)}" if isinstance(model, Supernet) else ""
    return f"{label}: the loss is not finite at step {step}{path}; lower the learning rate or clip_grad"


class _Meter:
    """Mean loss and accuracy since the last record."""

    def __init__(self) -> None:
        self.loss = self.right = 0.0
        self.n = 0
        self.last = 0.0

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> float:
        self.last = float(loss.detach())
        self.loss += self.last * len(y)
        self.right += float((logits.detach().argmax(1) == y).sum())
        self.n += len(y)
        return self.last

    def record(self, epoch: int, lr: float) -> EpochRecord:
        made = {"epoch": epoch, "loss": self.loss / self.n, "top1": self.right / self.n, "lr": lr}
        self.loss = self.right = 0.0
        self.n = 0
        return made
