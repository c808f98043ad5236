"""`torchvision:NAME` and `timm:NAME` as backbones, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision

from spos_quant.backbones import build as build_module
from spos_quant.backbones.build import build, load_space, space_of, structure_hash
from spos_quant.cli import run as command
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.space.spec import parse_spec
from spos_quant.testing import check_space


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def spec(backbone: str, **more):
    raw = {"name": "x", "backbone": backbone, "input": [3, 32, 32], "classes": 4, "axes": {"bits": [[2, 4], [8, 8]]}}
    return parse_spec(raw | more, "x")


def test_contract() -> None:
    check_space(space_of(spec("torchvision:resnet18")), paths=1)
    check_space(space_of(spec("torchvision:mobilenet_v3_small", bits_per="layer")), paths=1)


def test_bits_per_block_are_those_of_the_built_in_network() -> None:
    ours = space_of(spec("resnet18"))
    theirs = space_of(spec("torchvision:resnet18"))
    assert [a.name for a in ours.axes] == [a.name for a in theirs.axes]
    assert ours.uniform_config(2, 4).layers == theirs.uniform_config(2, 4).layers


def test_weights_of_a_file(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=4).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    supernet = build(space_of(spec("torchvision:resnet18", weights=str(tmp_path / "w.pt")))).eval()
    supernet.activate_float()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(supernet(x), model(x))


def test_the_seed_decides_the_initial_weights() -> None:
    space = space_of(spec("torchvision:squeezenet1_1"))
    a, b, c = (build(space, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_cost_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["cost", "torchvision:resnet18", "--uniform", "w4a4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    space = load_space("resnet18-mixed")
    ours = sum(x.shapes[0].macs for x in space.network_shapes.reference if x.name not in ("conv1", "fc"))
    assert found["bitops"] == 16 * ours
    assert load_space("torchvision:resnet18").size == 3**16, "a shortcut shares bits with the layer of the same input"


@pytest.mark.slow
def test_run_and_verify(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: x\nbackbone: torchvision:squeezenet1_1\ninput: [3, 32, 32]\nclasses: 4\ndata: fake\n"
        "axes: {bits: [[4, 4], [8, 8]]}\n"
    )
    settings = ("train.iterations=2", "retrain.iterations=20", "search.population=2", "search.generations=1")
    options = [part for setting in settings for part in ("--set", setting)]
    out = str(tmp_path / "run")
    assert command(["run", str(tmp_path / "x.yaml"), "--bitops-budget", "60%", "--out", out, *options]) == 0
    assert command(["verify", out, "--result", "bitops-60pct"]) == 0


@pytest.mark.parametrize(
    ("backbone", "more", "error", "message"),
    [
        ("torchvision:resnet19", {}, ConfigError, "torchvision has no classifier 'resnet19'; did you mean 'resnet18'"),
        ("torchvison:resnet18", {}, ConfigError, "unknown backbone.*did you mean 'torchvision'"),
        ("torchvision:resnet18", {"input": [1, 32, 32]}, SpaceError, "take 3 channels, the space's input has 1"),
        ("torchvision:resnet18", {"axes": {"op": ["skip"]}}, SpaceError, "has no choice blocks"),
    ],
)
def test_bad_input(backbone: str, more: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        space_of(spec(backbone, **more))


def test_the_structure_hash_depends_on_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = spec("torchvision:resnet18"), spec("resnet18")
    before = structure_hash(theirs), structure_hash(ours)
    monkeypatch.setattr(build_module, "version", lambda _: "0.0.1")
    assert structure_hash(theirs) != before[0]
    assert structure_hash(ours) == before[1]
