"""Retraining with other quantizers, progressive bits and EMA, from a supernet with per-bits BatchNorm and teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import spos_quant as sq
from spos_quant.errors import ConfigError
from spos_quant.export.runtime import OnnxModel
from spos_quant.quant.scales import LearnedScale
from spos_quant.quant.static import is_quant_layer, read_bits
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages.models import float_teacher, make_network, scoring_batches
from spos_quant.stages.open_run import open_existing
from spos_quant.stages.retrain import retrain_in_process
from spos_quant.supernet.weights import load_file, save_weights

SPACE = {
    "name": "small",
    "backbone": "digits-resnet",
    "input": [1, 8, 8],
    "classes": 10,
    "axes": {"bits": [[2, 2], [4, 4], [8, 8]]},
    "data": "digits",
    "batch_norm": "per-bits",
    "train": {"iterations": 6, "batch_size": 32, "path_teacher": "bits", "warmup_epochs": 0.0},
    "retrain": {
        "iterations": 8,
        "batch_size": 32,
        "warmup_epochs": 0.0,
        "quantizer": "lsq-midrise+pact",
        "progressive": 0.5,
        "ema": 0.9,
        "checkpoint_steps": 3,
    },
    "search": {"recalibration_images": 64, "batch_size": 64},
}


def write(folder: Path, **changes) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SPACE, **changes}))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from spos_quant.cli import run as run_command

    folder = tmp_path_factory.mktemp("options")
    assert run_command(["train", str(write(folder)), "--out", str(folder / "run"), "--json"]) == 0
    assert run_command(["retrain", str(folder / "run"), "--bits", "w2a2", "--json"]) == 0
    return folder / "run"


def test_model_and_files_have_the_quantizer_of_the_retraining(run, command):
    config = read_bit_config(run / "results" / "bits-w2a2" / "small.bits.json")
    assert config.quantizer == "lsq-midrise+pact"
    model = sq.load(run)
    layers = [m for m in model.modules() if is_quant_layer(m)]
    assert {read_bits(layer) for layer in layers} == {(2, 2)}
    for layer in layers:
        codes = layer.quant_weight().value / layer.quant_weight().scale
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-5)
        assert codes.round().unique().tolist() == [-3, -1, 1, 3]
    command("export", run, "--format", "onnx-qcdq", json=True)
    verified = command("verify", run, json=True)
    assert verified["ok"]
    (file,) = verified["files"]
    assert file["bitops"] == verified["model"]["bitops"] == config.cost["bitops"]
    assert file["weight_bytes"] == verified["model"]["weight_bytes"]
    runtime = OnnxModel(Path(file["path"]))
    with torch.no_grad():
        far = torch.cat(
            [
                (model(x) - torch.from_numpy(runtime(x.numpy()))).abs().amax(1) > 1e-3
                for x, _ in scoring_batches(open_existing(str(run)), "test", all_images=True)
            ]
        )
    # Rounding of a sum may move a value at a tie to another of four levels; a wrong file is wrong everywhere.
    assert far.float().mean() < 0.02


def test_a_killed_retraining_ends_with_the_same_model(run, interrupted_at):
    """Killed in the middle of the progressive bits, with EMA and learned scales in the checkpoint."""
    result = open_existing(str(run)).result("bits-w2a2")
    expected = load_file(result.model_path)
    kept = result.model_path.read_bytes()
    result.model_path.unlink()

    with interrupted_at(5):
        retrain_in_process(result, device="cpu", show=False)
    assert result.checkpoint_path.exists()
    retrain_in_process(result, device="cpu", show=False)
    again = load_file(result.model_path)
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    assert kept == result.model_path.read_bytes()


def test_learned_scales_are_initialised_from_the_inherited_weights(run):
    opened = open_existing(str(run))
    config = read_bit_config(opened.result("bits-w2a2").bits_path)
    network = make_network(opened, config, inherited=True, seed=0)
    fresh = make_network(opened, config, inherited=False, seed=0)
    for layer, other in zip(network.input_quantizers().values(), fresh.input_quantizers().values(), strict=True):
        (scale,) = (m for m in layer[0].weight_quant.modules() if isinstance(m, LearnedScale))
        (start,) = (m for m in other[0].weight_quant.modules() if isinstance(m, LearnedScale))
        assert not torch.equal(layer[0].weight, other[0].weight)
        before = scale.value.detach().clone()
        assert not torch.equal(before, start.value)
        scale.start(layer[0].weight)
        assert torch.equal(scale.value, before)


def test_a_configuration_that_names_a_quantizer_keeps_it(run, tmp_path, command):
    opened = open_existing(str(run))
    raw = opened.space.uniform_config(4, 4).to_json() | {"quantizer": "absmax+pact"}
    path = tmp_path / "mine.bits.json"
    import json

    path.write_text(json.dumps(raw))
    command("retrain", run, "--bits", path, json=True)
    found = read_bit_config(run / "results" / "bits-mine" / "small.bits.json")
    assert found.quantizer == "absmax+pact"
    assert not any(isinstance(m, LearnedScale) for m in sq.load(run, "bits-mine").modules())


def test_unknown_quantizers_are_refused_before_anything_is_written(tmp_path, command):
    path = write(tmp_path)
    status, _, err = command("train", path, "--out", tmp_path / "r", "--set", "retrain.quantizer=lsk+pact")
    assert status == 2
    assert "unknown weight quantizer 'lsk'; did you mean 'lsq'" in err
    assert not (tmp_path / "r").exists()


def test_the_teacher_is_the_float_network_of_the_weights(tmp_path, command):
    from spos_quant.backbones.build import build, space_of
    from spos_quant.space.spec import parse_spec

    status, _, err = command("train", write(tmp_path), "--out", tmp_path / "r", "--set", "train.distill=0.5")
    assert status == 2
    assert "is distilled from the float model of `weights`, which are not given" in err

    plain = parse_spec({**SPACE, "axes": {}, "batch_norm": "shared"}, "float")
    model = build(space_of(plain), seed=5).subnet(())
    save_weights(model, tmp_path / "w.safetensors")
    train = {**SPACE["train"], "distill": 0.5, "iterations": 2}
    retrain = {**SPACE["retrain"], "distill": 0.5, "iterations": 2}
    path = write(tmp_path, weights=str(tmp_path / "w.safetensors"), train=train, retrain=retrain)
    command("train", path, "--out", tmp_path / "r", json=True)
    command("retrain", tmp_path / "r", "--bits", "w4a4", json=True)
    opened = open_existing(str(tmp_path / "r"))
    teacher = float_teacher(opened, 0.5)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(teacher.eval()(x), model.eval()(x))
    assert float_teacher(opened, 0.0) is None


def test_without_weights_the_retrained_float_model_is_the_teacher(run):
    with pytest.raises(ConfigError, match="retrain.distill needs the float model"):
        float_teacher(open_existing(str(run)), 0.5)
