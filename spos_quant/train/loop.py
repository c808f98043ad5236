"""The training loop: of a supernet, on the paths that a sampler draws for every step (`train.paths`), or of a subnet.

References:
    [Guo2020] Single Path One-Shot NAS, arXiv 1904.00420: one path per step (Sec. 3.3).
    [Yu2019] Universally Slimmable Networks, arXiv 1903.05134: several paths per step, one teaches the others (Sec. 3).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from spos_quant.config import TrainConfig
from spos_quant.data import DataSet
from spos_quant.errors import ModelError, RunError
from spos_quant.interrupt import deferred
from spos_quant.loggers import Loggers, LogTarget, open_loggers
from spos_quant.progress import progress
from spos_quant.quant.kernels import WORTH_COMPILING
from spos_quant.streams import Stream, torch_seed
from spos_quant.supernet.fast import fast_steps
from spos_quant.supernet.supernet import Supernet, param_groups
from spos_quant.train.allocation import keep_freed_memory
from spos_quant.train.batches import TrainingBatches, loader
from spos_quant.train.checkpoint import Checkpoint, TrainingProgress
from spos_quant.train.devices import repeatable
from spos_quant.train.ema import WeightAverage
from spos_quant.train.evaluation import batch_norms
from spos_quant.train.meter import EpochRecord, Meter
from spos_quant.train.paths import Paths, Step

_MOST_SKIPPED = 100


@dataclass(frozen=True)
class Training:
    """A training job: data, seed and settings, label, progress and loggers, and the path of its checkpoint."""

    data: DataSet
    config: TrainConfig
    seed: int
    label: str
    show: bool = True
    checkpoint: Path | None = None
    """None writes no checkpoint: an interrupted training starts from the beginning."""
    identity: str = ""
    """What the training depends on besides its settings. A checkpoint of another identity is ignored."""
    loggers: tuple[str, ...] = ()
    """Names of the registered loggers of the curves."""
    logs: LogTarget | None = None
    """Where the loggers write."""


def fit(
    fabric: Fabric,
    model: nn.Module,
    training: Training,
    *,
    teacher: nn.Module | None = None,
    paths: Paths | None = None,
) -> list[EpochRecord]:
    """Trains a model in place and returns one record per epoch (`epoch`, `loss`, `top1`, `lr`, `skipped`).

    If `config.iterations` ends inside an epoch, the last record's `epoch` is a fraction. A step with several paths is
    recorded by their mean loss and accuracy.

    Parameters of inactive layers get no gradient, and the optimizer skips them: neither weight decay nor momentum
    changes them. With `config.ema` the model ends with the average of its weights; recalibrate BatchNorm afterwards.

    Resumes from the training's checkpoint if there is one, to the same weights as an uninterrupted training. An
    interrupt takes effect after the current step and writes a checkpoint.

    All ranks train the same path at every step, each on its share of the batch, and average their gradients, which
    equals gradient accumulation in one process. BatchNorm normalises by the statistics of a rank's own share; the
    running statistics are those of rank 0. Records cover the images of all ranks. An interrupt of one rank stops all
    ranks after the same step.

    Args:
        fabric: Device, precision and ranks.
        model: A supernet, or any model from images to logits.
        training: Data and settings.
        teacher: The float teacher for `config.distill`.
        paths: Called at every step for the paths of the supernet to train; None trains any model as it is.

    Raises:
        ModelError: a loss or gradient is not finite and `config.nonfinite` is not `skip`, or too many steps in a row
            were skipped.
        RunError: the checkpoint is damaged or cannot be written.
        KeyboardInterrupt: interrupted; the checkpoint is written.
    """
    if teacher is not None:
        teacher.eval()
    loop = _Loop(fabric, model, training, teacher, paths)
    with fast_steps(model, compiled=loop.resolve(training.config.compile)), repeatable():
        loop.run()
    if loop.average is not None:
        loop.average.put()
    model.eval().to(memory_format=torch.contiguous_format)
    return list(loop.position.records)


class _Loop:
    """The state of one training, and its steps."""

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        training: Training,
        teacher: nn.Module | None,
        paths: Paths | None,
    ) -> None:
        self.fabric, self.model, self.training, self.config = fabric, model, training, training.config
        self.teacher, self.paths = teacher, paths
        self.steps = TrainingBatches(
            training.data,
            self.config.batch_size,
            training.seed,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        self.total = self.config.steps(self.steps.per_epoch)
        if fabric.device.type == "cpu" and self.resolve(None):
            keep_freed_memory()
        self.optimizer = make_optimizer(model, self.config)
        self.memory_format = torch.channels_last if self.resolve(self.config.channels_last) else torch.contiguous_format
        for module in (model, *([] if teacher is None else [teacher])):
            module.to(fabric.device).to(memory_format=self.memory_format)
        self.average = WeightAverage(model, self.config.ema) if self.config.ema else None
        self.checkpoint = None if training.checkpoint is None else Checkpoint(training.checkpoint, training.identity)
        self.position = (
            TrainingProgress()
            if self.checkpoint is None
            else self.checkpoint.load(model, self.optimizer, self._averages())
        )
        self.meter = Meter(**self.position.meter)
        self.wrapped, self.wrapped_optimizer = fabric.setup(model, self.optimizer)
        self._check_start()
        self.saved = time.monotonic()
        self.skipped_in_a_row = 0
        self.stopped = False

    def _check_start(self) -> None:
        """Raises `RunError` if ranks would resume from different steps."""
        own = torch.tensor(float(self.position.step), dtype=torch.float64, device=self.fabric.device)
        mean = self.fabric.all_reduce(own.clone(), reduce_op="mean")
        if mean != own:
            raise RunError(
                f"{self.training.label}: ranks found different checkpoints (this one's is of step "
                f"{self.position.step}); the run directory must be on storage that all machines share"
            )

    def resolve(self, setting: bool | None) -> bool:
        """The setting; None enables it if the training is long enough to benefit."""
        _, height, width = self.training.data.preprocessing.input
        return self.total * self.steps.batch_size * height * width >= WORTH_COMPILING if setting is None else setting

    def run(self) -> None:
        first = self.position.step
        batches = loader(self.steps, first, self.total, self.config.data_workers)
        show = self.training.show and self.fabric.global_rank == 0
        self.wrapped.train()
        with (
            self._loggers() as log,
            progress(self.training.label, self.total, unit="steps", show=show, done=first) as tick,
            deferred() as interrupted,
        ):
            for step, (x, y) in zip(range(first, self.total), batches, strict=True):
                x = x.to(self.fabric.device, memory_format=self.memory_format)
                self._step(step, x, y.to(self.fabric.device), interrupted)
                self.position.step = step + 1
                log.log(self._metrics(), step)
                tick(f"loss {self.meter.last:.3f}")
                if self.fabric.world_size == 1:
                    self.stopped = interrupted()
                if self._due() or self.stopped:
                    self._save()
                if self.stopped:
                    break
        if self.stopped:  # by an interrupt of another rank
            raise KeyboardInterrupt

    def _metrics(self) -> dict[str, float]:
        """The metrics of the last step. If it ended an epoch, appends its record and includes the epoch's metrics."""
        lr = self.optimizer.param_groups[0]["lr"]
        metrics = {"loss": self.meter.last, "lr": lr}
        whole, rest = divmod(self.position.step, self.steps.per_epoch)
        if not rest or self.position.step == self.total:
            record = self.meter.record(self.position.step / self.steps.per_epoch if rest else whole, lr)
            self.position.records.append(record)
            metrics |= {"epoch": record["epoch"], "epoch_loss": record["loss"], "epoch_top1": record["top1"]}
        return metrics

    def _step(self, step: int, x: Tensor, y: Tensor, interrupted: Callable[[], bool]) -> None:
        config = self.config
        set_lr(self.optimizer, learning_rate(step, self.total, self.steps.per_epoch, config))
        # Dropout and other random numbers in the model depend on the step too.
        torch.manual_seed(step_seed(self.training.seed, step, self.fabric.global_rank))
        planned = Step() if self.paths is None else self.paths(step)
        self.wrapped_optimizer.zero_grad(set_to_none=True)
        loss, correct = self._backward(planned, x, y)
        norm = self.fabric.clip_gradients(
            self.wrapped, self.wrapped_optimizer, max_norm=config.clip_grad or float("inf"), error_if_nonfinite=False
        )
        assert isinstance(norm, Tensor)
        loss, correct, finite = self._all_ranks(loss, correct, norm, interrupted)
        if not finite:
            return self._not_finite(step, planned)
        self.skipped_in_a_row = 0
        self.meter.add(loss, correct, len(y) * self.fabric.world_size)
        self.wrapped_optimizer.step()
        if self.average is not None:
            self.average.update(step)

    def _averages(self) -> dict[str, Tensor]:
        return {} if self.average is None else self.average.values

    def _backward(self, planned: Step, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Accumulates the mean gradient of the step's paths; returns their mean loss and mean correct answers.

        Each path runs forward and backward before the next, so that memory is that of the largest path.
        """
        count = max(1, len(planned.architectures))
        losses, correct = [], []
        target: Tensor | None = None  # logits of the step's teacher path
        answers = None if self.teacher is None else _teacher_logits(self.teacher, x)
        for i in range(count):
            if planned.architectures:
                assert isinstance(self.model, Supernet)
                self.model.activate(planned.architectures[i])
            logits: Tensor = self.wrapped(x)
            loss = loss_of(logits, y, self.config, answers) if target is None else divergence(logits, target)
            self.fabric.backward(loss / count)
            if planned.teach and i == 0:
                target = logits.detach()
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(1) == y).sum())
        return torch.stack(losses).mean(), torch.stack(correct).sum() / count

    def _all_ranks(
        self, loss: Tensor, correct: Tensor, norm: Tensor, interrupted: Callable[[], bool]
    ) -> tuple[Tensor, Tensor, bool]:
        """The mean loss and total correct answers of all ranks, and whether all losses and gradients are finite.

        The shared result makes all ranks take the step or none. An interrupt of any rank is shared in the same way.
        """
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        if self.fabric.world_size == 1:
            return loss, correct, bool(finite)
        flags = torch.tensor([float(interrupted())], device=loss.device)
        mine = torch.cat([torch.stack([loss.float(), correct.float(), finite.float()]), flags])
        total = self.fabric.all_reduce(mine, reduce_op="sum")
        assert isinstance(total, Tensor)
        self.stopped = bool(total[3])
        count = self.fabric.world_size
        return total[0] / count, total[1], bool(total[2] == count)

    def _not_finite(self, step: int, planned: Step) -> None:
        """Skips the step or raises; the weights stay unchanged. Resets BatchNorm statistics that are not finite."""
        path = ""
        if planned.architectures:
            assert isinstance(self.model, Supernet)
            names = [self.model.space.encode(one) for one in planned.architectures]
            path = f" on path {names[0]}" if len(names) == 1 else f" on one of the paths {'; '.join(names)}"
        what = f"{self.training.label}: the loss or its gradient is not finite at step {step}{path}"
        kept = "" if self.checkpoint is None else "; the last good checkpoint is kept"
        if self.config.nonfinite == "stop":
            raise ModelError(
                f"{what}{kept}. Look at the data, lower lr in a new run, or leave such steps out: "
                "--set train.nonfinite=skip (or retrain.nonfinite=skip)"
            )
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= _MOST_SKIPPED:
            raise ModelError(f"{what}, the {_MOST_SKIPPED}th in a row{kept}. Lower lr in a new run")
        self.meter.skip()
        for norm in batch_norms(self.model):
            if not bool(norm.running_mean.isfinite().all() & norm.running_var.isfinite().all()):
                norm.running_mean.zero_()
                norm.running_var.fill_(1)

    def _due(self) -> bool:
        every = self.config.checkpoint_steps
        if self.checkpoint is None or self.position.step == self.total:
            return False
        overdue = time.monotonic() - self.saved >= 60 * self.config.checkpoint_minutes
        return overdue or bool(every and self.position.step % every == 0)

    def _save(self) -> None:
        if self.checkpoint is not None and self.fabric.global_rank == 0:
            self.position.meter = vars(self.meter).copy()
            self.checkpoint.save(self.model, self.optimizer, self.position, self._averages())
            self.saved = time.monotonic()

    def _loggers(self) -> Loggers:
        names = self.training.loggers if self.fabric.global_rank == 0 else ()
        target = self.training.logs or LogTarget(Path(), "", self.training.label)
        return open_loggers(names, replace(target, from_step=self.position.step))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD, by default with Nesterov momentum; weight decay on weights of convolutions and linear layers only."""
    groups = param_groups(model, config.weight_decay)
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0
    )


def learning_rate(step: int, total: int, per_epoch: int, config: TrainConfig) -> float:
    """Linear warm-up to `config.lr`, then a cosine or linear decay that reaches 0 at the end of the last step."""
    warmup = min(round(config.warmup_epochs * per_epoch), total // 2)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    left = max(total - warmup, 1)
    if config.schedule == "linear":
        return config.lr * (total - step) / left
    return config.lr * 0.5 * (1 + cos(pi * (step - warmup) / left))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def loss_of(logits: Tensor, y: Tensor, config: TrainConfig, answers: Tensor | None) -> Tensor:
    """Cross-entropy with label smoothing, mixed with the divergence from a teacher's predictions.

    Args:
        logits: `[n, classes]`.
        y: `[n]` labels.
        config: Provides `label_smoothing` and `distill`, the weight of the divergence.
        answers: `[n, classes]` logits of the teacher; None uses the cross-entropy alone.
    """
    loss = F.cross_entropy(logits.float(), y, label_smoothing=config.label_smoothing)
    if answers is None or config.distill == 0:
        return loss
    return (1 - config.distill) * loss + config.distill * divergence(logits, answers)


def divergence(logits: Tensor, answers: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of `[n, classes]` logits from a teacher's logits, averaged over the images."""
    return F.kl_div(
        F.log_softmax(logits.float(), 1), F.log_softmax(answers.float(), 1), reduction="batchmean", log_target=True
    )


@torch.no_grad()
def _teacher_logits(teacher: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = teacher(x)
    return logits


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of torch's generator for a step; different for every rank."""
    return torch_seed(Stream.TRAINING_STEP, seed, step, rank)
