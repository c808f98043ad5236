from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from supernet_cases import every_candidate, images, space, supernet
from torch import Tensor, nn

from spos_quant.backbones.build import build, space_of
from spos_quant.errors import ModelError, RunError
from spos_quant.space.locked import locked_spec
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.supernet import Supernet
from spos_quant.supernet.weights import (
    copy_overlap,
    inherit,
    load_float_weights,
    load_weights,
    named_tensors,
    read_weights,
    save_weights,
)


def path_of(made: Supernet) -> Tensor:
    made.eval()
    made.activate(every_candidate(made.space)[1])
    return made(images(made)).detach()


@pytest.mark.parametrize("name", ["digits-mixed", "separate", "option a"])
def test_supernet_round_trip(name: str, tmp_path: Path) -> None:
    made, other = supernet(name, seed=0), supernet(name, seed=5)
    assert not torch.equal(path_of(made), path_of(other))
    save_weights(made, tmp_path / "w.safetensors")
    identities = [id(p) for p in other.parameters()]
    load_weights(other, read_weights(tmp_path / "w.safetensors"), "w")
    assert torch.equal(path_of(made), path_of(other))
    assert [id(p) for p in other.parameters()] == identities, (
        "an optimizer built before would update the old parameters"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checksums.sha256", "w.safetensors"]


def test_subnet_round_trip_with_a_shared_quantizer(tmp_path: Path) -> None:
    made = supernet("digits-mixed")
    a = every_candidate(made.space)[9]
    subnet, other = made.subnet(a), supernet("digits-mixed", seed=5).subnet(a)
    subnet(images(made))
    save_weights(subnet, tmp_path / "w.safetensors")
    load_weights(other, read_weights(tmp_path / "w.safetensors"), "w")
    x = images(made, seed=1)
    assert torch.equal(subnet.eval()(x), other.eval()(x))
    stored = load_file(tmp_path / "w.safetensors")
    assert int(stored["bn1.num_batches_tracked"]) == 1
    shared = [name for name in stored if name.startswith("layer2.0.") and "input_quant" in name]
    everywhere = [name for name in subnet.state_dict() if name.startswith("layer2.0.") and "input_quant" in name]
    assert len(everywhere) == len(shared) + 1


def test_named_tensors_lists_what_a_state_dict_holds_once() -> None:
    made = supernet("digits-mixed")
    names = [name for name, _ in named_tensors(made)]
    assert len(set(names)) == len(names)
    state = made.state_dict(keep_vars=True)
    assert {id(tensor) for _, tensor in named_tensors(made)} == set(map(id, state.values()))
    assert set(names) <= set(state)


def test_stored_tensors_are_no_views_of_the_model(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    save_weights(layer, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(found["weight"], layer.weight)


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_truncated_files(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(nn.Linear(3, 2), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RunError, match="is damaged or was changed"):
        read_weights(path)
    path.rename(tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match="damaged or no safetensors file"):
        read_weights(tmp_path / "mine.safetensors")
    torch.save(nn.Linear(30, 20).state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:cut])
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / "w.pt")


def test_missing_file(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "none.pt", "does not exist"), (tmp_path, "is no file")):
        with pytest.raises(ModelError, match=what):
            read_weights(path)


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w"])
def test_code_in_a_file_never_runs(name: str, tmp_path: Path) -> None:
    witness = tmp_path / "was here"
    torch.save({"weight": torch.zeros(1), "harm": Harm(witness)}, tmp_path / name)
    with pytest.raises(ModelError, match="without running code"):
        read_weights(tmp_path / name)
    torch.save(nn.Linear(1, 1), tmp_path / name)
    with pytest.raises(ModelError, match="without running code"):
        read_weights(tmp_path / name)
    assert not witness.exists()


def test_forms_of_state_dicts(tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(2), "a.bias": torch.zeros(1)}
    forms = {
        "plain.pt": state,
        "nested.pt": {"state_dict": state, "epoch": 3},
        "parallel.pt": {f"module.{name}": tensor for name, tensor in state.items()},
    }
    for name, form in forms.items():
        torch.save(form, tmp_path / name)
        found = read_weights(tmp_path / name)
        assert sorted(found) == ["a.bias", "a.weight"], name
        assert torch.equal(found["a.weight"], torch.ones(2))
    for number, form in enumerate(({"a": 1}, [torch.ones(1)], torch.ones(1))):
        torch.save(form, tmp_path / f"{number}.pt")
        with pytest.raises(ModelError, match="holds no state dict"):
            read_weights(tmp_path / f"{number}.pt")


@pytest.mark.parametrize(
    "odd",
    [
        lambda t: t.to(torch.complex64),
        lambda t: t.to_sparse(),
        lambda t: t.to("meta"),
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_cannot_be_copied(odd, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": odd(torch.ones(2))}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="w.pt: 'b' is no dense tensor of plain numbers; save it as one"):
        read_weights(tmp_path / "w.pt")


def test_names_and_shapes_must_fit() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = {name: tensor.clone() for name, tensor in named_tensors(model)}
    before = {name: tensor.clone() for name, tensor in state.items()}
    renamed = {("0.weigth" if name == "0.weight" else name): tensor + 1 for name, tensor in state.items()}
    message = r"1 tensors are missing, 1 are unknown, first '0.weight'; did you mean '0.weigth'\?"
    with pytest.raises(ModelError, match=message):
        load_weights(model, renamed, "file")
    message = r"0 tensors are missing, 1 are unknown, first '1.weigh'; did you mean '1.weight'\?"
    with pytest.raises(ModelError, match=message):
        load_weights(model, {**state, "1.weigh": torch.ones(1)}, "file")
    wrong = {name: tensor + 1 for name, tensor in state.items()}
    wrong["1.running_var"] = torch.ones(3)
    with pytest.raises(ModelError, match=r"file: '1.running_var' has shape \(3,\), this model needs \(2,\)"):
        load_weights(model, wrong, "file")
    assert all(torch.equal(before[name], tensor) for name, tensor in named_tensors(model)), "half of a file was loaded"
    load_weights(model, {name: tensor + 1 for name, tensor in state.items()}, "file")
    assert all(torch.equal(before[name] + 1, tensor) for name, tensor in named_tensors(model))


# Float weights of the backbone


def float_state(name: str = "option a", seed: int = 0) -> dict[str, Tensor]:
    """A state dict as published: plain names, the backbone's own operator at width 1.0."""
    own = space_of(parse_spec({**space(name).spec.model_dump(mode="json"), "axes": {}, "keep_float": ["*"]}, "own"))
    model = build(own, seed=seed).subnet(())
    generator = torch.Generator().manual_seed(seed)
    for _, tensor in named_tensors(model):
        if tensor.dim() == 1:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return {n: t.detach() for n, t in named_tensors(model)}


def test_float_weights_of_the_own_operator(tmp_path: Path) -> None:
    state = float_state()
    save_file(state, tmp_path / "w.safetensors")
    made = supernet("option a", seed=5)
    surplus = made.body.layer1[0].candidates["conv3x3"].conv1.weight[16:].clone()
    load_float_weights(made, tmp_path / "w.safetensors")
    whole = made.space.canonical([1 if axis.kind == "width" else 0 for axis in made.space.axes])
    subnet = made.subnet(whole)
    for name, tensor in subnet.state_dict().items():
        if "input_quant" not in name and not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[name]), name
    wide = made.body.layer1[0].candidates["conv3x3"].conv1.weight
    assert torch.equal(wide[16:], surplus)


def test_space_of_weights_starts_from_the_file(tmp_path: Path) -> None:
    torch.save(float_state(), tmp_path / "w.pt")
    spec = space("option a").spec.model_copy(update={"weights": str(tmp_path / "w.pt")})
    assert torch.equal(build(space_of(spec)).body.conv1.weight, float_state()["conv1.weight"])


def test_other_operators_keep_their_fresh_weights(tmp_path: Path) -> None:
    torch.save(float_state("separate", seed=3), tmp_path / "w.pt")
    made = supernet("separate")
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(made)}
    load_float_weights(made, tmp_path / "w.pt")
    for name, a in named_tensors(made):
        b = before[name]
        if (".candidates." in name and ".candidates.conv3x3." not in name) or "scaling_impl" in name:
            assert torch.equal(a, b), name
        elif "candidates" in name or "fc" in name:
            assert not torch.equal(a, b), name


def test_a_space_without_the_own_operator_still_reads_the_file(tmp_path: Path) -> None:
    state = float_state("float")
    torch.save(state, tmp_path / "w.pt")
    raw = space("float").spec.model_dump(mode="json")
    only = space_of(parse_spec({**raw, "axes": {"op": ["conv5x5", "skip"], "bits": [[2, 2]]}}, "x"))
    made = build(only)
    load_float_weights(made, tmp_path / "w.pt")
    assert torch.equal(made.body.fc.weight, state["fc.weight"])
    torch.save({**state, "layer1.9.conv1.weight": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"1 tensors that the backbone has not, first 'layer1.9.conv1.weight'"):
        load_float_weights(made, tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear.weight": None}, r"misses 'linear.weight'; did you mean"),
        ({"linear.weights": torch.ones(1)}, r"1 tensors that the backbone has not, first 'linear.weights'"),
        (
            {"linear.weight": torch.ones(1000, 64)},
            r"'linear.weight' has shape \(1000, 64\), the backbone has 640 weights",
        ),
        ({"conv1.weight": torch.ones(16, 3, 7, 7)}, r"'conv1.weight' has shape \(16, 3, 7, 7\)"),
        (
            {"conv1.weight": torch.ones(16, 27)},
            r"'conv1.weight' has shape \(16, 27\), this model needs \(16, 3, 3, 3\)",
        ),
        ({"conv1.weight": torch.tensor(1.0)}, r"'conv1.weight' has shape \(\)"),
        ({"bn1.weight": torch.ones(16, 1)}, r"'bn1.weight' has shape \(16, 1\), this model needs \(16,\)"),
    ],
)
def test_float_weights_that_do_not_fit(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in {**float_state(), **change}.items() if tensor is not None}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message):
        load_float_weights(supernet("option a"), tmp_path / "w.pt")


# Between supernets


def test_inherit_copies_leading_channels_and_returns_missing_names() -> None:
    source = {"0.weight": torch.arange(12.0).view(3, 4), "2.weight": torch.ones(2, 2, 5, 5), "3.bias": torch.ones(2, 2)}
    target = nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Conv2d(2, 2, 3, bias=False), nn.BatchNorm2d(2))
    before = target[0].weight[:, 4:].clone()
    missing = inherit(target, source)
    assert torch.equal(target[0].weight[:, :4], source["0.weight"][:2])
    assert torch.equal(target[0].weight[:, 4:], before)
    assert missing == {
        "0.bias",
        "2.weight",  # another kernel
        "3.weight",
        "3.bias",  # another number of dimensions
        "3.running_mean",
        "3.running_var",
        "3.num_batches_tracked",
    }


@pytest.mark.parametrize("name", ["digits-mixed", "separate", "option a"])
def test_a_locked_space_inherits_exactly_the_subnet(name: str) -> None:
    """The initial network of retraining equals the supernet's path, with its shared clips and slices."""
    made = supernet(name).eval()
    tensors = {n: t.detach().clone() for n, t in named_tensors(made)}
    x = images(made)
    rng = np.random.default_rng(2)
    for a in made.space.sample_many(rng, 2):
        locked = build(space_of(locked_spec(made.space, made.space.bit_config(a))), seed=8).eval()
        assert locked.space.size == 1
        assert inherit(locked, tensors) == set()
        assert torch.equal(locked.subnet(())(x), made.subnet(a)(x))


def test_overlap_needs_the_same_kernel() -> None:
    target = torch.zeros(2, 3)
    copy_overlap(target, torch.ones(3, 2), "w")
    assert target.tolist() == [[1, 1, 0], [1, 1, 0]]
    scalar = torch.tensor(0.0)
    copy_overlap(scalar, torch.tensor(4.0), "w")
    assert float(scalar) == 4
    with pytest.raises(ModelError, match=r"w has shape \(3,\), this model needs \(2, 3\)"):
        copy_overlap(target, torch.ones(3), "w")
    with pytest.raises(ModelError, match=r"w has shape \(1, 1, 3, 3\), this model needs \(1, 1, 5, 5\)"):
        copy_overlap(torch.zeros(1, 1, 5, 5), torch.ones(1, 1, 3, 3), "w")
