"""A training that stops at any step resumes to bitwise equal weights; nonfinite losses do no damage."""

from __future__ import annotations

import copy
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from train_cases import CLASSES, data, drawing, hooked, space, supernet, training

from spos_quant import interrupt
from spos_quant.config import TrainConfig
from spos_quant.data import DataSet
from spos_quant.errors import ModelError, RunError
from spos_quant.supernet.weights import read_weights
from spos_quant.train.devices import make_fabric
from spos_quant.train.evaluation import batch_norms
from spos_quant.train.loop import Training, fit, step_seed
from spos_quant.train.paths import Paths, Step, path_samplers


class Stop(Exception):
    """Simulates a kill in the middle of a training."""


def job(path, **config) -> Training:
    given = {"epochs": 3, "checkpoint_steps": 3, "checkpoint_minutes": 1000.0, **config}
    return replace(training(40, 1, **given), checkpoint=path, identity="x")


def run(model: nn.Module, of: Training, *, die_at: int | None = None, draw: Paths | None = None):
    """Trains; a supernet along `draw`, uniform by default."""
    choose = draw or (drawing(of.seed) if hasattr(model, "activate") else lambda step: Step())

    def paths(step):
        if step == die_at:
            raise Stop
        return choose(step)

    return fit(make_fabric(of.config, "cpu"), model, of, paths=paths)


def dropping() -> nn.Module:
    """A model with dropout and BatchNorm: it uses torch's random numbers and batch statistics."""
    torch.manual_seed(5)
    layers = [nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, CLASSES)]
    return nn.Sequential(*layers)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(state(a).values(), state(b).values(), strict=True))


@pytest.mark.parametrize("make", [pytest.param(supernet, marks=pytest.mark.slow), dropping])
@pytest.mark.parametrize("config", [{}, {"momentum": 0.0}, {"data_workers": 1}, {"channels_last": True}], ids=str)
def test_a_killed_training_ends_with_the_same_weights_and_records(tmp_path, make, config):
    undisturbed = make()
    expected = run(undisturbed, job(None, **config))
    for kills in ([1], [5, 5, 7], [3, 11]):
        path = tmp_path / f"{kills}.safetensors"
        for step in kills:
            with pytest.raises(Stop):
                run(make(), job(path, **config), die_at=step)
            torch.manual_seed(99)  # a new process has another random state
        model = make()
        assert run(model, job(path, **config)) == expected
        assert equal(model, undisturbed)
    assert not equal(undisturbed, make())
    assert len(expected) == 3


def test_channels_last_trains_the_same_up_to_rounding_and_can_be_killed(tmp_path):
    models = {}
    for given in (True, False):
        models[given] = supernet()
        run(models[given], job(None, channels_last=given, iterations=3))
        assert all(p.is_contiguous() for p in models[given].parameters())
    ours, theirs, start = (
        torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (*models.values(), supernet())
    )
    # At few bits, rounding errors sometimes change a level; a wrong gradient would be as far away as the start.
    assert (ours - theirs).norm() < 0.3 * (theirs - start).norm()
    seen = []
    watched = supernet()
    conv = next(m for m in watched.modules() if hasattr(m, "active_weight"))
    conv.register_forward_hook(lambda _m, _i, y: seen.append(y.is_contiguous(memory_format=torch.channels_last)))
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        run(watched, job(path, channels_last=True, iterations=3, checkpoint_steps=1), die_at=2)
    assert seen
    assert all(seen)
    again = supernet()
    run(again, job(path, channels_last=True, iterations=3, checkpoint_steps=1))
    assert equal(again, models[True])


SAMPLERS = {
    "feasible": {"path_high": "40%"},
    "cost-uniform": {"path_low": "10%", "path_bins": 3},
    "fair": {},
    "sandwich": {},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_killed_training_ends_the_same_along_the_paths_of_every_sampler(tmp_path, sampler):
    """Includes an incomplete last epoch."""
    assert {*SAMPLERS, "uniform"} == set(path_samplers)
    config = {"iterations": 7, "schedule": "linear", "nesterov": False}

    def draw() -> Paths:  # as in a new process
        return drawing(1, path_sampler=sampler, **SAMPLERS[sampler])

    undisturbed, path = supernet(), tmp_path / "c.safetensors"
    expected = run(undisturbed, job(None, **config), draw=draw())
    for step in (5, 6):
        with pytest.raises(Stop):
            run(supernet(), job(path, **config), die_at=step, draw=draw())
        torch.manual_seed(99)
    model = supernet()
    assert run(model, job(path, **config), draw=draw()) == expected
    assert equal(model, undisturbed)
    assert not equal(undisturbed, supernet())
    assert [record["epoch"] for record in expected] == [1, 1.75]


def test_a_checkpoint_is_written_every_so_many_steps_and_when_time_has_passed(tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        run(dropping(), job(path), die_at=2)
    assert not path.exists()
    with pytest.raises(Stop):
        run(dropping(), job(path), die_at=5)
    model = dropping()
    seen = []
    fit(make_fabric(TrainConfig(), "cpu"), model, job(path), paths=hooked(seen.append))
    assert seen == list(range(3, 12))
    path.unlink()
    with pytest.raises(Stop):
        run(dropping(), job(path, checkpoint_steps=0, checkpoint_minutes=1e-9), die_at=2)
    seen.clear()
    fit(make_fabric(TrainConfig(), "cpu"), model, job(path), paths=hooked(seen.append))
    assert seen == list(range(2, 12))


def test_the_clock_may_go_backwards(tmp_path, monkeypatch):
    import time

    undisturbed, model = dropping(), dropping()
    run(undisturbed, job(None))
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
    run(model, job(tmp_path / "c.safetensors"))
    assert equal(model, undisturbed)


def test_an_interrupt_waits_for_the_step_and_writes_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(interrupt._State, "arrived", False)  # undone afterwards for other tests
    path, model, undisturbed = tmp_path / "c.safetensors", supernet(), supernet()
    expected = run(undisturbed, job(None))
    draw, seen = drawing(1), []

    def pressed(step):
        seen.append(step)
        if step == 4:
            interrupt._handle(signal.SIGINT, None)
        return draw(step)

    with pytest.raises(KeyboardInterrupt):
        fit(make_fabric(TrainConfig(), "cpu"), model, job(path, checkpoint_steps=0), paths=pressed)
    assert seen == [0, 1, 2, 3, 4]
    model = supernet()
    assert run(model, job(path)) == expected
    assert equal(model, undisturbed)


def test_the_checkpoint_of_another_training_is_ignored(tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        run(dropping(), job(path), die_at=7)
    model, undisturbed = dropping(), dropping()
    run(undisturbed, job(None))
    run(model, replace(job(path), identity="y"))
    assert "is of another training" in capsys.readouterr().err
    assert equal(model, undisturbed)


def test_another_number_of_threads_is_reported(tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        run(dropping(), job(path), die_at=7)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        run(dropping(), job(path))
    finally:
        torch.set_num_threads(before)
    assert "another number of threads: last bits may differ" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:]])
def test_a_damaged_checkpoint_is_reported(tmp_path, damage):
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        run(dropping(), job(path), die_at=7)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"c\.safetensors: is damaged .*delete it and repeat the command"):
        run(dropping(), job(path))
    (tmp_path / "checksums.sha256").unlink()  # without a checksum the content must still be checked
    path.write_bytes(b"\x10" * 40)
    with pytest.raises(RunError, match=r"c\.safetensors: is damaged"):
        run(dropping(), job(path))


# ---- losses that are not finite


def with_white_images(*indices: int) -> DataSet:
    """The data set with images for which a `Broken` model has a NaN loss."""
    made = data(40)
    images = made.train.images.copy()
    images[list(indices)] = 255
    return replace(made, train=type(made.train)(images, made.train.labels))


class Broken(nn.Module):
    """Turns white images into NaN, as a faulty decoder would."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        white = (x.flatten(1).min(1).values > 2.5)[:, None, None, None]  # white is (1 - .3) / .27 = 2.6
        return self.model(torch.where(white, torch.nan, x))


def broken_job(path, **config) -> Training:
    return replace(job(path, **{"epochs": 2, **config}), data=replace(with_white_images(7), augmentation=no_padding()))


def no_padding():
    return replace(data(4).augmentation, pad=0)


def test_a_nonfinite_step_is_reported_and_the_last_checkpoint_kept(tmp_path):
    path, model = tmp_path / "c.safetensors", Broken(dropping())
    with pytest.raises(ModelError) as error:
        run(model, broken_job(path, checkpoint_steps=1))
    message = str(error.value)
    assert "the loss or its gradient is not finite at step" in message
    assert "the last good checkpoint is kept" in message
    assert "--set train.nonfinite=skip" in message
    if path.exists():
        assert all(t.isfinite().all() for t in read_weights(path).values())


def test_skipping_a_nonfinite_step_keeps_the_model_finite(tmp_path):
    model = Broken(dropping())
    records = run(model, broken_job(None, nonfinite="skip"))
    assert [r["skipped"] for r in records] == [1, 1]
    assert all(np.isfinite(r["loss"]) and 0 <= r["top1"] <= 1 for r in records)
    assert all(t.isfinite().all() for t in model.state_dict().values())
    assert not equal(model, Broken(dropping()))


def test_skip_can_be_set_after_a_stop(tmp_path):
    """The result is the same as with `skip` from the start: the setting is not part of the training's identity."""
    path, at_once, later = tmp_path / "c.safetensors", Broken(dropping()), Broken(dropping())
    expected = run(at_once, broken_job(None, nonfinite="skip"))
    with pytest.raises(ModelError):
        run(Broken(dropping()), broken_job(path, checkpoint_steps=1))
    assert run(later, broken_job(path, nonfinite="skip")) == expected
    assert equal(at_once, later)


def test_a_nonfinite_gradient_takes_no_step():
    class Root(nn.Module):
        """A finite value with an infinite slope at 0."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(CLASSES))

        def forward(self, x):
            return x.flatten(1)[:, :CLASSES] + self.weight.abs().sqrt()

    model = Root()
    with pytest.raises(ModelError, match="the loss or its gradient is not finite at step 0; or|at step 0"):
        run(model, job(None))
    assert model.weight.isfinite().all()


def test_nonfinite_statistics_of_a_skipped_batch_are_reset():
    model = supernet()

    def broken(step):
        if step == 1:
            batch_norms(model)[0].running_mean.fill_(torch.nan)
            next(model.parameters()).register_hook(lambda g: g * torch.nan if step == 1 else g)
        return space().sample(np.random.default_rng(step))

    before = copy.deepcopy(model)
    # The hook stays, so every later step is skipped too; the model must stay finite.
    fit(make_fabric(TrainConfig(), "cpu"), model, training(nonfinite="skip"), paths=hooked(broken))
    assert all(t.isfinite().all() for t in model.state_dict().values())
    assert not equal(before, model)


def test_too_many_skipped_steps_in_a_row_are_an_error(monkeypatch):
    monkeypatch.setattr("spos_quant.train.loop._MOST_SKIPPED", 5)
    model = dropping()
    with torch.no_grad():
        model[1].weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite at step 4, the 5th in a row"):
        run(model, job(None, nonfinite="skip"))


def test_seeds_of_steps_differ():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(2)}
    assert len(seeds) == 300
    assert step_seed(1, 2, 0) == step_seed(1, 2, 0)
