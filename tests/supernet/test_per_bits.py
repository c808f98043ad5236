"""The parameters of each bit-width: weight scales and affine parameters of BatchNorm."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spos_quant.backbones.build import build, space_of
from spos_quant.errors import ConfigError
from spos_quant.quant.scales import LearnedScale
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.locked import locked_spec
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.network import layers_with_following_norm
from spos_quant.supernet.supernet import Supernet
from spos_quant.supernet.weights import inherit, load_weights, named_tensors, read_weights, save_weights
from spos_quant.train.evaluation import recalibrate

RAW = {
    "name": "per-bits",
    "backbone": "digits-resnet",
    "input": [1, 8, 8],
    "classes": 10,
    "axes": {
        "op": ["conv3x3", "sepconv3x3"],
        "width": [0.5, 1.0],
        "bits": [[1, 2], [2, 2], [4, 4], [8, 8], ["float", 4]],
    },
    "batch_norm": "per-bits",
    "quantizer": "lsq-midrise+pact",
}
IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def made(seed: int = 0, *, shake: bool = True, **changes) -> Supernet:
    """A supernet; `shake` makes everything that can differ between bit-widths differ."""
    network = build(space_of(parse_spec({**RAW, **changes}, "per-bits")), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    if shake:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.dim() == 1 or ".by_bits." in name:
                    parameter.mul_(torch.rand(parameter.shape, generator=generator) + 0.5)
                    if name.endswith("bias"):
                        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def architectures(network: Supernet, n: int = 3) -> list[tuple[int, ...]]:
    return network.space.sample_many(np.random.default_rng(3), n)


def scales_of(network: Supernet) -> dict[str, Tensor]:
    return {f"{n}.value": m.value for n, m in network.named_modules() if isinstance(m, LearnedScale)}


def test_subnets_equal_their_paths_in_outputs_gradients_and_after_recalibration() -> None:
    network = made()
    for a in architectures(network):
        network.train()
        network.activate(a)
        subnet = network.subnet(a)
        network.zero_grad(set_to_none=True)
        y, z = network(IMAGES), subnet(IMAGES)
        assert torch.equal(y, z)
        y.square().sum().backward()
        z.square().sum().backward()
        norms = {n: m for n, m in subnet.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert norms
        gradients = [p.grad for p in network.parameters() if p.grad is not None and p.grad.any()]
        assert len(gradients) == len([p for p in subnet.parameters() if p.grad is not None and p.grad.any()])
        recalibrate(network, [IMAGES])
        recalibrate(subnet, [IMAGES])
        assert torch.equal(network(IMAGES), subnet(IMAGES))
        assert torch.equal(network.subnet(a)(IMAGES), network(IMAGES))


def test_each_bit_width_trains_its_own_affine_parameters_and_scales() -> None:
    network = made(shake=False)
    layer, norm = next((x, y) for x, y in layers_with_following_norm(network.body) if x.searchable)
    assert list(norm.by_bits) == ["1", "2", "4", "8"]
    for a in architectures(network, 10):
        network.activate(a)
        network.zero_grad(set_to_none=True)
        network.train()(IMAGES).square().sum().backward()
        block = network.body.layer1[0]
        if not any(m is layer for m in block.operator.modules()):
            continue
        assert norm.active_bits == layer.weight_bits
        for bits, affine in norm.by_bits.items():
            active = bits == str(layer.weight_bits)
            assert (affine.weight.grad is not None) is active
            (scale,) = layer.weight_quant[bits].parameters()
            assert (scale.grad is not None) is active
        assert (norm.weight.grad is not None) is (layer.weight_bits is None)


def test_the_float_pass_leaves_batch_norm_as_it_is() -> None:
    network = made().eval()
    a = architectures(network)[0]
    network.activate(a)
    before = [n.active_bits for n in network.modules() if isinstance(n, SwitchBatchNorm2d)]
    network.activate_float()
    assert [n.active_bits for n in network.modules() if isinstance(n, SwitchBatchNorm2d)] == before
    floating = network(IMAGES)
    assert torch.isfinite(network.subnet(a)(IMAGES)).all()
    assert torch.equal(network(IMAGES), floating)


def test_weights_round_trip_copies_and_a_plain_optimizer_group(tmp_path: Path) -> None:
    network, other = made(0), made(1)
    save_weights(network, tmp_path / "w.safetensors")
    identities = [id(p) for p in other.parameters()]
    load_weights(other, read_weights(tmp_path / "w.safetensors"), "w")
    assert [id(p) for p in other.parameters()] == identities
    twin = copy.deepcopy(network)
    for a in architectures(network):
        for model in (network, other, twin):
            model.eval().activate(a)
        assert torch.equal(network(IMAGES), other(IMAGES))
        assert torch.equal(network(IMAGES), twin(IMAGES))
    decayed, free = network.param_groups(weight_decay=0.1)
    weights = {id(m.weight) for m in network.modules() if isinstance(m, SwitchLayer)}
    assert {id(p) for p in decayed["params"]} == weights
    assert {id(p) for p in scales_of(network).values()} <= {id(p) for p in free["params"]}


def test_a_state_dict_is_loaded_into_the_existing_parameters() -> None:
    """Brevitas would re-create those of its quantizers, and an optimizer would update the old ones."""
    from brevitas import config

    network, other = made(0), made(1)
    before, default = [id(p) for p in network.parameters()], config.REINIT_ON_STATE_DICT_LOAD
    network.load_state_dict(other.state_dict())
    assert [id(p) for p in network.parameters()] == before
    assert default is config.REINIT_ON_STATE_DICT_LOAD is True
    a = architectures(network)[0]
    for model in (network, other):
        model.eval().activate(a)
    assert torch.equal(network(IMAGES), other(IMAGES))


def test_a_locked_network_inherits_what_its_bits_learned() -> None:
    network = made()
    tensors = {name: tensor.clone() for name, tensor in named_tensors(network)}
    for a in architectures(network):
        locked = build(space_of(locked_spec(network.space, network.space.bit_config(a))), seed=9)
        missing = inherit(locked, tensors)
        assert not [name for name in missing if "weight_quant" in name or ".by_bits." in name]
        assert torch.equal(locked.subnet(()).eval()(IMAGES), network.subnet(a).eval()(IMAGES))


def test_what_is_missing_starts_from_the_inherited_weights() -> None:
    """Learned scales, inherited from a supernet without any, are initialized from the statistics of its weights."""
    axes = {"bits": RAW["axes"]["bits"]}  # one width: statistics use the slice, learned scales the full weight
    plain = made(quantizer="midrise+pact", batch_norm="shared", axes=axes)
    learned = made(seed=4, axes=axes)
    missing = inherit(learned, dict(named_tensors(plain)))
    scales = scales_of(learned)
    assert scales.keys() <= missing
    for tensor in scales.values():
        tensor.data.fill_(7.0)
    learned.start(missing)
    for a in architectures(plain):
        assert torch.equal(learned.subnet(a).eval()(IMAGES), plain.subnet(a).eval()(IMAGES))
    kept = next(iter(scales))
    scales[kept].data.fill_(7.0)
    learned.start(missing - {kept})
    assert (scales[kept] == 7.0).all()


def test_float_weights_start_everything(tmp_path: Path) -> None:
    float_space = {**RAW, "axes": {}, "batch_norm": "shared"}
    floating = build(space_of(parse_spec(float_space, "float")), seed=5)
    norm = floating.body.layer1[0].candidates["conv3x3"].bn1
    norm.weight.data.uniform_(0.5, 2)
    save_weights(floating.subnet(()), tmp_path / "w.safetensors")
    axes = {"bits": [[2, 2], [4, 4]]}
    network = made(shake=False, axes=axes, weights=str(tmp_path / "w.safetensors"))
    loaded = network.body.layer1[0].candidates["conv3x3"]
    for affine in loaded.bn1.by_bits.values():
        assert torch.equal(affine.weight, norm.weight)
    before = {name: scale.detach().clone() for name, scale in scales_of(network).items()}
    network.start()
    assert all(torch.equal(before[name], scale) for name, scale in scales_of(network).items())


def test_a_network_without_switchable_batch_norm_is_rejected() -> None:
    raw = {**RAW, "backbone": "torchvision:resnet18", "input": [3, 32, 32], "axes": {"bits": [[2, 2], [4, 4]]}}
    with pytest.raises(ConfigError, match="batch_norm: per-bits needs .* leave it at shared"):
        build(space_of(parse_spec({**raw, "bits_per": "layer"}, "x")))


def test_a_float_network_of_such_a_space_has_nothing_to_split() -> None:
    network = made(axes={"bits": [["float", "float"]]})
    assert not [n for n in network.modules() if isinstance(n, SwitchBatchNorm2d) and n.by_bits]
