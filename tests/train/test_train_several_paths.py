"""A step with several paths against gradients computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from train_cases import drawing, supernet, training, used, weights

from spos_quant.config import TrainConfig
from spos_quant.errors import ModelError
from spos_quant.train.batches import TrainingBatches
from spos_quant.train.devices import make_fabric
from spos_quant.train.loop import fit
from spos_quant.train.paths import Step


@pytest.fixture
def fabric():
    return make_fabric(TrainConfig(), "cpu")


def gradients(fabric, planned: Step, **config) -> tuple[dict[str, torch.Tensor], nn.Module, dict]:
    """The gradients of one step of `fit` (what plain SGD with lr 1 subtracted), the model and the record."""
    model = supernet()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    given = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "clip_grad": 0.0, "batch_size": 40, **config}
    (record,) = fit(fabric, model, training(**given), paths=lambda step: planned)
    return {name: before[name] - p.detach() for name, p in model.named_parameters()}, model, record


def test_a_sandwich_step_is_the_mean_of_its_paths_gradients(fabric):
    """By hand: labels for the first path, its predictions as soft targets for the others, all on one batch."""
    planned = drawing(0, path_sampler="sandwich")(3)
    ours, trained_model, record = gradients(fabric, planned)
    model = supernet().train()
    x, y = TrainingBatches(training().data, 40, 0)[0]
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    target, losses, correct = None, [], 0
    for path in planned.architectures:
        model.activate(path)
        model.zero_grad(set_to_none=True)
        log_p = model(x).log_softmax(1)
        if target is None:
            target = log_p.detach().exp()
            loss = -(0.9 * log_p[range(40), y] + 0.1 * log_p.mean(1)).mean()
        else:
            loss = (target * (target.log() - log_p)).sum(1).mean()
        loss.backward()
        for name, p in model.named_parameters():
            expected[name] += 0 if p.grad is None else p.grad / 3
        losses.append(float(loss.detach()))
        correct += int((log_p.argmax(1) == y).sum())
    assert len(losses) == 3
    assert min(losses) > 0.01
    moved = [name for name in expected if expected[name].abs().max() > 1e-4]
    assert len(moved) > 20
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-3, atol=1e-5)
    assert record["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert record["top1"] == pytest.approx(correct / 120)
    for (name, a), b in zip(trained_model.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=f"statistics {name} are not from the same batches")


def test_paths_without_a_teacher_all_learn_the_labels(fabric):
    paths = drawing(0, path_sampler="sandwich")(3).architectures
    together, _, record = gradients(fabric, Step(paths))
    alone = [gradients(fabric, Step((path,))) for path in paths]
    taught, _, _ = gradients(fabric, Step(paths, teach=True))
    for name, g in together.items():
        torch.testing.assert_close(g, sum(one[0][name] for one in alone) / 3, rtol=1e-3, atol=1e-5)
    assert record["loss"] == pytest.approx(np.mean([one[2]["loss"] for one in alone]), rel=1e-5)
    assert any((taught[name] - g).abs().max() > 1e-3 for name, g in together.items())


def test_the_clipped_norm_is_that_of_the_mean(fabric):
    planned = drawing(0, path_sampler="sandwich")(0)
    free, _, _ = gradients(fabric, planned)
    norm = math.sqrt(sum(float(g.square().sum()) for g in free.values()))
    clipped, _, _ = gradients(fabric, planned, clip_grad=norm / 2)
    for name, g in free.items():
        torch.testing.assert_close(clipped[name], g / 2, rtol=1e-3, atol=1e-5)


def test_a_step_of_several_paths_that_is_not_finite_names_them_and_is_not_taken(fabric):
    model, planned = supernet(), drawing(0, path_sampler="sandwich")(0)
    most_expensive, cheapest, _ = planned.architectures
    only = sorted(used(model, most_expensive) - used(model, cheapest))[0]
    with torch.no_grad():
        dict(model.named_parameters())[only].fill_(math.nan)
    before = weights(model)
    with pytest.raises(ModelError, match="at step 0 on one of the paths ") as error:
        fit(fabric, model, training(), paths=lambda step: planned)
    assert all(model.space.encode(path) in str(error.value) for path in planned.architectures)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters() if n != only)
