from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from train_cases import CLASSES, hooked, supernet, training

from spos_quant.config import TrainConfig
from spos_quant.train.devices import make_fabric
from spos_quant.train.ema import WeightAverage
from spos_quant.train.loop import fit


def linear() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def test_average_by_hand():
    model = linear()
    average = WeightAverage(model, 0.7)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step)
        decay = min(0.7, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
    average.put()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected[name])


def test_the_training_itself_is_the_same_and_ends_with_its_average():
    fabric = make_fabric(TrainConfig(), "cpu")
    seen: list[dict[str, torch.Tensor]] = []
    plain = linear()
    fit(fabric, plain, training(epochs=3), paths=hooked(lambda step: seen.append(_state(plain))))
    seen.append(_state(plain))
    averaged = linear()
    fit(fabric, averaged, training(epochs=3, ema=0.8))
    expected = seen[0]
    for step, state in enumerate(seen[1:]):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in state.items()}
    for name, value in _state(averaged).items():
        torch.testing.assert_close(value, expected[name])
    assert not torch.equal(averaged[1].weight, plain[1].weight)


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Stop(Exception):
    """Simulates a kill in the middle of a training."""


@pytest.mark.parametrize("make", [linear, supernet])
def test_a_killed_training_ends_with_the_same_average(tmp_path, make):
    job = training(epochs=3, ema=0.9, checkpoint_steps=3, checkpoint_minutes=1000.0)
    undisturbed = make()
    fit(make_fabric(job.config, "cpu"), undisturbed, job)
    job = replace(job, checkpoint=tmp_path / "c.safetensors", identity="x")

    def killed(step):
        if step == 7:
            raise Stop

    with pytest.raises(Stop):
        fit(make_fabric(job.config, "cpu"), make(), job, paths=hooked(killed))
    again = make()
    fit(make_fabric(job.config, "cpu"), again, job)
    for a, b in zip(undisturbed.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
