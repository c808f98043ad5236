"""The training loop against a loop written out, and what single-path training must leave alone."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from train_cases import CLASSES, drawing, hooked, space, supernet, training, used, weights

from spos_quant.config import TrainConfig
from spos_quant.errors import ConfigError, ModelError
from spos_quant.quant.switch import InputQuantizer, SwitchBatchNorm2d, SwitchLayer
from spos_quant.streams import Stream, generator
from spos_quant.supernet.calibrate import calibrate_clips
from spos_quant.train.batches import TrainingSteps
from spos_quant.train.devices import make_fabric
from spos_quant.train.loop import (
    fit,
    learning_rate,
    loss_of,
    make_optimizer,
    set_lr,
)


@pytest.fixture
def fabric():
    return make_fabric(TrainConfig(), "cpu")


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


# ---- the loop as a whole


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"momentum": 0.0, "weight_decay": 0.1},
        {"clip_grad": 0.05, "weight_decay": 0.05, "warmup_epochs": 1.0},
        {"clip_grad": 0.0, "label_smoothing": 0.0, "lr": 0.3, "warmup_epochs": 0.5},
    ],
    ids=str,
)
def test_fit_is_sgd_written_out(fabric, config):
    """Order of data, learning rate, smoothing, clipping, Nesterov momentum, weight decay and records, three epochs."""
    job = training(epochs=3, **config)
    c, steps = job.config, TrainingSteps(job.data, 10, job.seed)
    model = linear()
    weight, bias = (p.detach().clone().requires_grad_() for p in model[1].parameters())
    records = fit(fabric, model, job)

    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    warmup = round(c.warmup_epochs * 4)
    expected, losses, right = [], [], 0
    for step in range(12):
        lr = c.lr * (step + 1) / (warmup + 1)
        if step >= warmup:
            lr = c.lr / 2 * (1 + math.cos(math.pi * (step - warmup) / (12 - warmup)))
        x, y = steps[step]
        logits = x.flatten(1) @ weight.T + bias
        target = torch.full((10, CLASSES), c.label_smoothing / CLASSES)
        target[range(10), y] += 1 - c.label_smoothing
        loss = -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
        grads = list(torch.autograd.grad(loss, [weight, bias]))
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        if c.clip_grad and norm > c.clip_grad:
            grads = [g * c.clip_grad / norm for g in grads]
        with torch.no_grad():
            for i, (p, g, decay) in enumerate(zip((weight, bias), grads, (c.weight_decay, 0.0), strict=True)):
                g = g + decay * p
                velocity[i] = c.momentum * velocity[i] + g
                p -= lr * (g + c.momentum * velocity[i])
        losses.append(float(loss.detach()))
        right += int((logits.argmax(1) == y).sum())
        if step % 4 == 3:
            expected.append(
                {"epoch": step // 4 + 1, "loss": np.mean(losses[-4:]), "top1": right / 40, "lr": lr, "skipped": 0}
            )
            right = 0

    torch.testing.assert_close(model[1].weight, weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model[1].bias, bias, rtol=1e-4, atol=1e-6)
    assert [r["epoch"] for r in records] == [1, 2, 3]
    for ours, by_hand in zip(records, expected, strict=True):
        assert ours == pytest.approx(by_hand, rel=1e-4)
    assert len({r["loss"] for r in records}) == 3
    assert not model.training


def test_training_lowers_the_loss_of_a_supernet(fabric):
    model, job = supernet(), training(160, epochs=8, batch_size=16, lr=0.1, label_smoothing=0.0)
    calibrate_clips(model, TrainingSteps(job.data, 40, 0)[0][0])
    records = fit(fabric, model, job, paths=drawing(0))
    assert len(records) == 8
    assert np.mean([r["loss"] for r in records[-2:]]) < 0.6 * records[0]["loss"]
    assert np.mean([r["top1"] for r in records[-2:]]) > 0.65 > 0.45 > records[0]["top1"]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(weights(a).values(), weights(b).values(), strict=True))


def trained(seed: int, **config) -> nn.Module:
    model = supernet()
    fit(make_fabric(TrainConfig(), "cpu"), model, training(seed=seed, **config), paths=drawing(seed))
    return model


def test_same_seed_gives_bitwise_the_same_weights():
    first = trained(3)
    torch.manual_seed(99)  # the global generator is nobody's business
    assert same(trained(3), first)
    assert not same(trained(4), first)
    assert not same(first, supernet())


def test_processes_that_prepare_batches_change_nothing():
    assert same(trained(3, data_workers=2), trained(3))


def test_bf16_trains_float32_weights():
    config = {"precision": "bf16-mixed", "epochs": 2}
    job = training(**config)
    model, reference = supernet(), supernet()
    records = fit(make_fabric(job.config, "cpu"), model, job, paths=drawing(0))
    expected = fit(make_fabric(TrainConfig(), "cpu"), reference, training(epochs=2), paths=drawing(0))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.isfinite().all() for p in model.state_dict().values())
    assert not same(model, reference)
    for ours, theirs in zip(records, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.1)
        assert ours["loss"] != theirs["loss"]


# ---- paths


def test_fit_activates_the_path_of_every_step(fabric):
    model, seen = supernet(), []
    handle = model.register_forward_hook(lambda m, x, y: seen.append(m.architecture))
    fit(fabric, model, training(seed=5, epochs=2), paths=drawing(5))
    handle.remove()
    assert seen == [drawing(5)(step).architectures[0] for step in range(8)]
    assert len(set(seen)) > 5


def test_parameters_of_inactive_layers_do_not_move(fabric):
    """Neither weight decay nor momentum that they gathered on earlier paths moves them."""
    model = supernet()
    of = model.space
    everything = [of.canonical([min(turn, len(a.candidates) - 1) for a in of.axes]) for turn in range(4)]
    snapshots, moved_once = [], set()

    def choose(step):
        snapshots.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return everything[step % 4]

    fit(fabric, model, training(epochs=3, lr=0.2, weight_decay=0.1, momentum=0.9), paths=hooked(choose))
    snapshots.append({name: p.detach().clone() for name, p in model.named_parameters()})
    by_path = [used(model, path) for path in everything]
    checked = 0
    for step, (before, after) in enumerate(itertools.pairwise(snapshots)):
        active = by_path[step % 4]
        for name in before:
            if name not in active:
                assert torch.equal(before[name], after[name]), f"step {step} moved {name}"
                checked += name in moved_once  # with a momentum buffer that is not empty
            elif name.endswith(".weight"):
                assert not torch.equal(before[name], after[name]), f"step {step} left {name} as it was"
        moved_once |= active
    assert checked > 300
    assert {name for name, _ in model.named_parameters()} - set.union(*by_path) != set(snapshots[0])


# ---- optimizer, learning rate, loss


def test_weight_decay_is_for_weights_of_layers_only():
    model = supernet()
    model.append = nn.Linear(3, 3)  # biases too
    optimizer = make_optimizer(model, TrainConfig(lr=0.1, weight_decay=0.5, momentum=0.9))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    layers = {
        f"{name}.weight" for name, m in model.named_modules() if isinstance(m, (SwitchLayer, nn.Linear, nn.Conv2d))
    }
    for name, p in model.named_parameters():
        # lr x decay x (1 + momentum): Nesterov looks one step ahead
        factor = 1 - 0.1 * 0.5 * 1.9 if name in layers else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor, rtol=1e-5, atol=1e-8)
    kinds = {type(m) for m in model.modules()}
    assert {SwitchBatchNorm2d, InputQuantizer} <= kinds, "nothing was left to be spared"
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


def test_optimizer_takes_the_configuration():
    optimizer = make_optimizer(linear(), TrainConfig(lr=0.3, momentum=0.7, weight_decay=0.2))
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.3, 0.7, True)
    plain = make_optimizer(linear(), TrainConfig(momentum=0.0))
    assert not any(group["nesterov"] for group in plain.param_groups)
    set_lr(plain, 0.123)
    assert [group["lr"] for group in plain.param_groups] == [0.123, 0.123]


def test_learning_rate_by_hand():
    c = TrainConfig(lr=0.4, warmup_epochs=1.0)
    rates = [learning_rate(step, 25, 5, c) for step in range(25)]
    assert rates[:5] == pytest.approx([0.4 / 6, 0.8 / 6, 1.2 / 6, 1.6 / 6, 2.0 / 6])
    assert rates[5] == 0.4
    assert rates[15] == pytest.approx(0.2)  # half-way through the cosine
    assert rates[10] == pytest.approx(0.2 * (1 + math.sqrt(0.5)))
    assert rates[24] == pytest.approx(0.2 * (1 + math.cos(math.pi * 19 / 20)))
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert learning_rate(25, 25, 5, c) == pytest.approx(0, abs=1e-12)


def test_linear_learning_rate_by_hand():
    c = TrainConfig(lr=0.4, warmup_epochs=0.4, schedule="linear")
    rates = [learning_rate(step, 12, 5, c) for step in range(13)]
    assert rates[:2] == pytest.approx([0.4 / 3, 0.8 / 3])
    assert rates[2:] == pytest.approx([0.4 * left / 10 for left in range(10, -1, -1)])
    # the authors': lr x (1 - step / total), without a warm-up
    bare = TrainConfig(lr=0.5, warmup_epochs=0.0, schedule="linear")
    assert [learning_rate(s, 150, 5, bare) for s in (0, 30, 149)] == pytest.approx([0.5, 0.4, 0.5 / 150])
    assert learning_rate(0, 1, 1, bare) == 0.5


@pytest.mark.parametrize(("iterations", "epochs"), [(10, [1, 2, 2.5]), (8, [1, 2]), (3, [0.75]), (1, [0.25])])
def test_iterations_take_the_place_of_epochs(fabric, iterations, epochs):
    """4 steps are an epoch. The records' means are those of the steps that they are about."""
    seen, model = [], linear()
    config = {"iterations": iterations, "epochs": 5, "schedule": "linear"}
    log = Losses()
    loss_hook = model.register_forward_hook(log.note)
    records = fit(fabric, model, training(**config), paths=hooked(seen.append))
    loss_hook.remove()
    assert seen == list(range(iterations))
    assert [record["epoch"] for record in records] == epochs
    last = [math.ceil(epoch * 4) - 1 for epoch in epochs]
    assert [record["lr"] for record in records] == pytest.approx([0.05 * (1 - s / iterations) for s in last])
    job, start = training(**config), 0
    steps = TrainingSteps(job.data, 10, job.seed)
    for record, end in zip(records, last, strict=True):
        part = [float(loss_of(log.logits[s], steps[s][1], job.config, None)) for s in range(start, end + 1)]
        right = [(log.logits[s].argmax(1) == steps[s][1]).float().mean().item() for s in range(start, end + 1)]
        assert record["loss"] == pytest.approx(np.mean(part), rel=1e-5)
        assert record["top1"] == pytest.approx(np.mean(right), rel=1e-5)
        start = end + 1


class Losses:
    """The logits of every forward pass."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def note(self, model, x, logits) -> None:
        self.logits.append(logits.detach().clone())


def test_plain_momentum_by_hand(fabric):
    """The authors' optimizer: v = m v + g, p -= lr v."""
    job = training(iterations=6, nesterov=False, momentum=0.8, clip_grad=0.0, weight_decay=0.0, lr=0.2)
    model, nesterov = linear(), linear()
    weight = model[1].weight.detach().clone().requires_grad_()
    bias = model[1].bias.detach().clone().requires_grad_()
    fit(fabric, model, job)
    fit(fabric, nesterov, training(iterations=6, momentum=0.8, clip_grad=0.0, weight_decay=0.0, lr=0.2))
    steps, velocity = TrainingSteps(job.data, 10, 0), [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step in range(6):
        x, y = steps[step]
        loss = F.cross_entropy(x.flatten(1) @ weight.T + bias, y, label_smoothing=0.1)
        grads = torch.autograd.grad(loss, [weight, bias])
        lr = 0.1 * (1 + math.cos(math.pi * step / 6))
        with torch.no_grad():
            for i, (p, g) in enumerate(zip((weight, bias), grads, strict=True)):
                velocity[i] = 0.8 * velocity[i] + g
                p -= lr * velocity[i]
    torch.testing.assert_close(model[1].weight, weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model[1].bias, bias, rtol=1e-4, atol=1e-6)
    assert (nesterov[1].weight - weight).abs().max() > 1e-3


def test_warm_up_is_counted_in_epochs_and_takes_at_most_half():
    assert learning_rate(0, 40, 10, TrainConfig(lr=1.0, warmup_epochs=0.0)) == 1.0
    half = [learning_rate(s, 40, 10, TrainConfig(lr=1.0, warmup_epochs=0.5)) for s in range(7)]
    assert half[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert half[5] == 1.0 > half[6]
    long = [learning_rate(s, 40, 10, TrainConfig(lr=1.0, warmup_epochs=99.0)) for s in range(40)]
    assert long.index(max(long)) == 20
    assert learning_rate(0, 1, 1, TrainConfig(lr=1.0, warmup_epochs=1.0)) == 1.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("distill", [0.0, 0.3, 1.0])
def test_loss_by_hand(smoothing, distill):
    logits, answers = torch.randn(6, 5) * 2, torch.randn(6, 5) * 2
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    c = TrainConfig(label_smoothing=smoothing, distill=distill)
    log_p, q = F.log_softmax(logits, 1), F.softmax(answers, 1)
    hard = -((1 - smoothing) * log_p[range(6), y] + smoothing * log_p.mean(1)).mean()
    divergence = (q * (q.log() - log_p)).sum(1).mean()
    expected = (1 - distill) * hard + distill * divergence
    torch.testing.assert_close(loss_of(logits, y, c, answers), expected)
    torch.testing.assert_close(loss_of(logits, y, c, None), hard)
    assert float(divergence) > 0.1
    if distill == 1:
        assert float(loss_of(answers, y, c, answers)) == pytest.approx(0, abs=1e-6)


def test_loss_is_computed_in_float32():
    logits = (torch.randn(4, 5) * 30).to(torch.bfloat16)
    y = torch.tensor([0, 1, 2, 3])
    c = TrainConfig(distill=0.5)
    loss = loss_of(logits, y, c, logits)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(logits.float(), y, c, logits.float()))


def test_teacher_is_asked_in_evaluation_mode_and_left_alone(fabric):
    teacher = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, CLASSES)).train()
    before = weights(teacher)
    job = training(epochs=1, batch_size=40, distill=0.6)
    model = linear()
    start = copy.deepcopy(model)
    (record,) = fit(fabric, model, job, teacher=teacher)
    x, y = TrainingSteps(job.data, 40, job.seed)[0]
    with torch.no_grad():
        expected = float(loss_of(start(x), y, job.config, teacher.eval()(x)))
        without = float(loss_of(start(x), y, job.config, None))
    assert record["loss"] == pytest.approx(expected, rel=1e-5)
    assert record["loss"] != pytest.approx(without, rel=1e-3)
    assert all(torch.equal(before[name], p) for name, p in weights(teacher).items())
    assert all(p.grad is None for p in teacher.parameters())


def test_distillation_learns_the_teachers_answers(fabric):
    """With labels left out of the loss, the student says what the teacher says, also where that is wrong."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    model, job = linear(1), training(epochs=60, distill=1.0, lr=0.1)
    x, y = TrainingSteps(job.data, 40, 0)[0]

    def distance() -> float:
        with torch.no_grad():
            return float(loss_of(model(x), y, job.config, teacher(x)))

    before = distance()
    fit(fabric, model, job, teacher=teacher)
    assert distance() < 0.1 * before
    said = teacher(x).argmax(1)
    assert (model(x).argmax(1) == said).float().mean() > 0.85
    assert (y == said).float().mean() < 0.5


# ---- what goes wrong


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_said_with_step_and_path(fabric, value):
    model, draw = supernet(), drawing(0)
    snapshots = []

    def broken(step):
        if step == 2:
            with torch.no_grad():
                model.body.fc.weight.fill_(value)
        snapshots.append(model.state_dict()["body.conv1.weight"].clone())
        return draw(step)

    path = space().encode(space().sample(generator(Stream.PATH, 0, 2)))
    with pytest.raises(
        ModelError, match=rf"training: the loss or its gradient is not finite at step 2 on path {path}\. Look"
    ) as error:
        fit(fabric, model, training(), paths=broken)
    assert "raise clip_grad" not in str(error.value)
    assert torch.equal(model.body.conv1.weight, snapshots[-1]), "the step was taken all the same"


def test_a_plain_model_has_no_path_to_name(fabric):
    model = linear()
    with torch.no_grad():
        model[1].bias.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"its gradient is not finite at step 0\. Look at the data, lower lr"):
        fit(fabric, model, training())


def test_devices_that_are_not_there(monkeypatch):
    with pytest.raises(ConfigError, match="unknown device 'tpu'; expected auto, cpu or cuda"):
        make_fabric(TrainConfig(), "tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device that torch can use; give --device cpu or auto"):
        make_fabric(TrainConfig(), "cuda")
    assert make_fabric(TrainConfig(), "auto").device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda", "auto"):
        with pytest.raises(ConfigError, match=r"train\.devices=3: this machine has 2 CUDA devices"):
            make_fabric(TrainConfig(devices=3), device)


def test_progress_names_the_training(fabric, capsys):
    job = training(epochs=1)
    fit(fabric, linear(), job)
    assert capsys.readouterr().err == ""
    shown = type(job)(job.data, job.config, 0, "supernet", show=True)
    records = fit(fabric, linear(), shown)
    err = capsys.readouterr().err
    assert "supernet: 4 of 4 steps" in err
    assert "loss " in err
    assert records
