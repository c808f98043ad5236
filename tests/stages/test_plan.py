"""`spos-quant plan`: estimates against hand computation, measurements against torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spos_quant.backbones.build import build, load_space
from spos_quant.config import SearchConfig
from spos_quant.errors import ConfigError
from spos_quant.stages.open_run import spec_with_settings
from spos_quant.stages.plan import Assumed, Measured, _kept_bytes, estimate, plan

MEASURED = Measured(
    step_seconds=0.5,
    image_seconds=0.01,
    evaluation_seconds=0.002,
    macs=1e6,
    weight_bytes=4_000_000,
    buffer_bytes=1_000,
    subnet_bytes=1_000_000,
    activation_bytes=10_000,
    path_bytes=500,
    paths=1,
    ddp_seconds=0.05,
)
SPEC = spec_with_settings("digits-mixed", ["train.iterations=100", "train.batch_size=64", "retrain.epochs=2"])


def row(gpus: int, images: int = 1000, measured: Measured = MEASURED, **assumed):
    return estimate(SPEC, measured, Assumed(**assumed), images, gpus)


def test_one_device_by_hand():
    found, search = row(1), SPEC.search
    assert found["ranks"] == 1
    assert found["step"] == {"compute_seconds": pytest.approx(0.5 + 64 * 0.01), "communication_seconds": 0}
    assert found["seconds"]["supernet"] == pytest.approx(100 * 1.14)
    evaluation_images = min(search.recalibration_images, 800) + 200
    assert found["seconds"]["search"] == pytest.approx(
        search.population * search.generations * evaluation_images * 0.002
    )
    batch = min(SPEC.retrain.batch_size, 800)
    assert found["steps"]["retrain"] == 2 * (800 // batch)
    assert found["seconds"]["retrain"] == pytest.approx(2 * (800 // batch) * (0.5 + batch * 0.01))
    assert found["seconds"]["total"] == pytest.approx(sum(v for k, v in found["seconds"].items() if k != "total"))
    assert found["gpu_days"]["total"] == pytest.approx(found["seconds"]["total"] / 86_400)
    assert found["memory_bytes"] == 3 * 4_000_000 + 1_500 + 64 * 10_000


@pytest.mark.parametrize(("gpus", "ranks"), [(2, 2), (3, 2), (16, 16), (48, 32), (64, 64), (1000, 64)])
def test_ranks_share_a_batch_evenly(gpus, ranks):
    found = row(gpus, bandwidth=1e9)
    assert found["ranks"] == ranks
    assert found["step"]["compute_seconds"] == pytest.approx(0.5 + 64 // ranks * 0.01)
    assert found["step"]["communication_seconds"] == pytest.approx(0.05 + 2 * (ranks - 1) / ranks * 4_001_000 / 1e9)
    assert found["memory_bytes"] == 4 * 4_000_000 + 1_500 + 64 // ranks * 10_000


def test_a_generation_waits_for_its_last_evaluation():
    population, generations = SPEC.search.population, SPEC.search.generations
    one = row(1)["seconds"]["search"]
    assert row(population)["seconds"]["search"] == pytest.approx(one / population)
    assert row(1000 + population)["seconds"]["search"] == row(population)["seconds"]["search"]
    assert row(population - 1)["seconds"]["search"] == pytest.approx(2 * generations * one / population / generations)


def test_a_device_of_another_speed():
    """Only the time per image changes, not the fixed time per step."""
    assert MEASURED.flops == pytest.approx(6e8)
    found = row(1, flops=6e9)
    assert found["step"]["compute_seconds"] == pytest.approx(0.5 + 64 * 0.001)
    assert found["seconds"]["search"] == pytest.approx(row(1)["seconds"]["search"] / 10)


def test_activations_are_counted_as_autograd_saves_them():
    space = load_space("digits-mixed")
    supernet = build(space)
    x, y = torch.randn(6, *space.spec.input), torch.arange(6)
    path = space.uniform(4, 4)
    once, twice, thrice = (_kept_bytes(supernet, (torch.cat([x] * n), torch.cat([y] * n)), path) for n in (1, 2, 3))
    assert thrice - twice == pytest.approx(twice - once, rel=0.01)  # constant per image
    outputs: list[int] = []
    hooks = [m.register_forward_hook(lambda m, i, o: outputs.append(o.nbytes)) for m in _layers(supernet)]
    supernet(x)
    for hook in hooks:
        hook.remove()
    assert sum(outputs) < twice - once < 5 * sum(outputs)  # outputs of layers, quantizers and normalisation


def _layers(supernet: nn.Module) -> list[nn.Module]:
    return [layer for layer, *_ in supernet.quantized_layers()]


def test_the_command(command):
    found = command("plan", "digits-mixed", "--data-size", 1000, "--gpus", "1,2,1000", "--device", "cpu", json=True)
    assert [one["gpus"] for one in found["rows"]] == [1, 2, 1000]
    assert all(value > 0 for one in found["rows"] for value in one["seconds"].values())
    assert found["measured"]["weight_bytes"] == 4 * sum(
        p.numel() for p in build(load_space("digits-mixed")).parameters()
    )
    assert found["measured"]["ddp_seconds"] > 0
    assert any("as measured here" in text for text in found["assumptions"])
    status, out, _ = command("plan", "digits-mixed", "--data-size", 1000, "--device-tflops", 10, "--device", "cpu")
    assert status == 0
    assert "10 TFLOP/s, assumed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "many"], "--gpus 'many': expected numbers between commas"),
        (["--gpus", "0"], "--gpus 0: expected 1 to 100,000"),
        (["--bandwidth", "0"], "expected a number above 0"),
        (["--data-size", "1"], "--data-size 1: expected the number of training images"),
    ],
)
def test_invalid_arguments(command, arguments, message):
    status, _, err = command("plan", "digits-mixed", "--data-size", 1000, *arguments)
    assert status == 2
    assert message in err


def test_settings_are_those_of_the_command_line():
    assert spec_with_settings("digits-mixed", ["search.population=7"]).search == SearchConfig(
        **{**load_space("digits-mixed").spec.search.model_dump(), "population": 7}
    )
    with pytest.raises(ConfigError, match="unknown section"):
        spec_with_settings("digits-mixed", ["serch.population=7"])
    with pytest.raises(ConfigError, match="--data-size"):
        plan(SPEC, images=1, gpus=[1])
