from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spos_quant.backbones import build as build_module
from spos_quant.backbones.build import (
    build,
    builtin_spaces,
    load_space,
    load_spec,
    measure,
    network_shapes_json,
    network_shapes_of,
    space_of,
    structure_hash,
)
from spos_quant.errors import ConfigError, ModelError, SpaceError
from spos_quant.space.spec import SpaceSpec, parse_spec

TEXT = """
name: mine
backbone: digits-resnet
input: [1, 8, 8]
classes: 4
axes: {op: [conv3x3, skip], bits: [[2, 2], [4, 4]]}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spos_quant" / "network_shapes"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the spaces that were measured rather than read."""
    names: list[str] = []
    real = build_module.measure

    def counting(spec: SpaceSpec) -> Any:
        names.append(spec.name)
        return real(spec)

    monkeypatch.setattr(build_module, "measure", counting)
    return names


def mine(**changes: Any) -> SpaceSpec:
    raw = {"name": "mine", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 4, "axes": {"bits": [[2, 2]]}}
    return parse_spec(raw | changes, "mine")


FIRST: dict[str, str] = {}
"""The first space of every float network. Only it is measured; the others must have the same network shapes."""


@pytest.mark.parametrize("name", builtin_spaces())
def test_stored_network_shapes_equal_the_measured_ones(name: str, cache: Path, measured: list[str]) -> None:
    stored = Path(build_module.__file__).parents[2] / "search_spaces" / "tables" / f"{name}.json"
    spec = load_spec(name)
    assert spec.name == name
    first = FIRST.setdefault(structure_hash(spec), name)
    if first == name:
        assert stored.read_text("utf-8") == network_shapes_json(spec, measure(spec)), "run: python tools/make_tables.py"
    else:
        assert stored.read_text("utf-8") == stored.with_name(f"{first}.json").read_text("utf-8")
    assert load_space(name).size > 1
    assert measured == []
    assert not cache.exists()


def test_built_in_spaces_load_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from spos_quant.backbones.build import builtin_spaces, load_space\n"
        "sizes = [load_space(name).size for name in builtin_spaces()]\n"
        "assert len(sizes) == 16 and min(sizes) > 1000, sizes\n"
        "print([name for name in ('torch', 'brevitas', 'torchvision') if name in sys.modules])\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"


def test_cached_network_shapes_load_without_torch(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    size = load_space(tmp_path / "mine.yaml").size
    code = (
        "import sys; from spos_quant.backbones.build import load_space\n"
        "print(load_space('mine.yaml').size, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ), cwd=tmp_path
    )
    assert done.stdout.split() == [str(size), "False"]


def test_network_shapes_of_other_spaces_are_cached(cache: Path, measured: list[str]) -> None:
    first = network_shapes_of(mine())
    assert measured == ["mine"]
    (stored,) = cache.iterdir()
    assert stored.stem == structure_hash(mine())
    assert network_shapes_of(mine()) == first
    assert measured == ["mine"]
    assert network_shapes_of(mine(classes=5)) != first
    assert measured == ["mine", "mine"]
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "[]", "null", "{}", '{"structure": 1}', "cut", "other version", "layers"])
def test_a_damaged_cache_is_measured_anew(damage: str, cache: Path, measured: list[str]) -> None:
    wanted = network_shapes_of(mine())
    (stored,) = cache.iterdir()
    text = stored.read_text("utf-8")
    raw = json.loads(text)
    made = {
        "cut": text[: len(text) // 2],
        "other version": json.dumps({**raw, "format": "spos-quant/network_shapes/0"}),
        "layers": json.dumps({**raw, "layers": [{"name": "x"}]}),
    }
    stored.write_text(made.get(damage, damage))
    assert network_shapes_of(mine()) == wanted
    assert measured == ["mine", "mine"]
    assert stored.read_text("utf-8") == text


def test_an_unwritable_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(network_shapes_of(mine()).blocks) == 4


def test_a_space_with_a_built_in_name_has_its_own_network_shapes(cache: Path) -> None:
    network_shapes = network_shapes_of(mine(name="digits-mixed"))
    assert network_shapes.layers[-1].shapes[0].out_channels == 4
    assert load_space("digits-mixed").network_shapes.layers[-1].shapes[0].out_channels == 10


def test_structure_ignores_recipes_and_data() -> None:
    same = [
        mine(),
        mine(train={"epochs": 3}),
        mine(data="digits"),
        mine(weights="w.pt"),
        mine(search={"population": 7}),
        mine(keep_float=[]),
        mine(
            axes={"weight_bits": [3], "act_bits": [4, 8]}, overrides={"layer1.0": {"bits": [[4, 4]]}}, bits_per="layer"
        ),
    ]
    assert len({structure_hash(spec) for spec in same}) == 1
    other = [
        mine(classes=5),
        mine(axes={"bits": [[2, 2]], "op": ["skip"]}),
        mine(input=[1, 9, 9]),
        mine(overrides={"layer1.0": {"width": [0.5]}}),
        mine(overrides={"layer1.*": {"width": [0.5]}, "layer1.0": {"width": [1.5]}}),
        mine(overrides={"layer1.0": {"width": [1.5]}, "layer1.*": {"width": [0.5]}}),
    ]
    assert len({structure_hash(spec) for spec in (*same, *other)}) == 7


def test_spaces_by_name_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert "resnet18-mixed" in builtin_spaces()
    (tmp_path / "mine.yaml").write_text(TEXT)
    assert load_space(tmp_path / "mine.yaml").name == "mine"
    monkeypatch.chdir(tmp_path)
    assert load_space("mine.yaml").spec.classes == 4
    (tmp_path / "digits-mixed").mkdir()
    assert load_space("digits-mixed").spec.classes == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18-mixd", "neither a built-in search space nor a YAML file; did you mean 'resnet18-mixed'"),
        ("nothing.yaml", "'nothing.yaml' is neither"),
        (".", "'.' is a directory, not a YAML file"),
    ],
)
def test_missing_spaces(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError, match=message):
        load_space(name)


def test_unknown_backbone_and_operator(cache: Path) -> None:
    with pytest.raises(ConfigError, match="unknown backbone 'digit-resnet'; did you mean 'digits-resnet'"):
        space_of(mine(backbone="digit-resnet"))
    with pytest.raises(ConfigError, match="unknown operator 'bottelneck'; did you mean 'bottleneck'"):
        space_of(mine(axes={"op": ["bottelneck"], "bits": [[2, 2]]}))
    with pytest.raises(ConfigError, match="unknown operator 'five'"):
        space_of(mine(overrides={"layer1.0": {"op": ["five"]}}))
    with pytest.raises(ConfigError, match="unknown weight quantizer 'gausian'; did you mean 'gaussian'"):
        build(space_of(mine(quantizer="gausian+pact")))


def test_missing_weights(cache: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        build(space_of(mine(weights="/nowhere/w.pt")))


def test_build_is_on_the_cpu_and_changes_no_generator(cache: Path) -> None:
    space = space_of(mine())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.device("meta"):  # like `torch.set_default_device`; the meta device exists on every machine
        made = build(space, seed=1)
        subnet = made.subnet(made.architecture)
    assert torch.equal(torch.get_rng_state(), before)
    for module in (made, subnet):
        assert {t.device.type for t in (*module.parameters(), *module.buffers())} == {"cpu"}
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(made(x), subnet(x))
    assert made.space is space
    assert made.architecture == (0,) * len(space.axes)
