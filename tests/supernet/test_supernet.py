"""The invariant of the supernet: a subnet is bit-identical to its path, forward and backward."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from supernet_cases import NAMES, Watched, check_coverage, every_candidate, images, space, supernet
from torch import Tensor, nn

from spos_quant.backbones.build import build, space_of
from spos_quant.errors import BudgetError, ModelError, SpaceError
from spos_quant.quant.static import is_quant_layer, read_bits, read_signed
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.search_space import Architecture
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.network import places
from spos_quant.supernet.supernet import Supernet


def step(module: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    y: Tensor = module(x)
    (y * g).sum().backward()
    return y.detach()


def check_path(watched: Watched, a: Architecture, x: Tensor, *, training: bool) -> tuple[nn.Module, set[int]]:
    """Forward, gradients of all parameters and BatchNorm statistics of a path and of its subnet.

    Returns:
        The subnet, and identities of the supernet's parameters with a gradient that is not zero.
    """
    made = watched.made
    if made.training is not training:
        made.train(training)
    # Another path is active first: nothing of it may remain.
    made.activate([len(axis.candidates) - 1 - i for axis, i in zip(made.space.axes, a, strict=True)])
    subnet = made.subnet(a)
    assert all(m.training is training for m in subnet.modules() if type(m).__name__ != "TensorClamp")
    assert not any(isinstance(m, (SwitchLayer, SwitchBatchNorm2d)) for m in subnet.modules())
    made.activate(a)
    before = {name: buffer.clone() for name, buffer in watched.statistics.items()}
    watched.clear_gradients()
    g = torch.randn(len(x), made.space.spec.classes)
    assert torch.equal(step(made, x, g), step(subnet, x, g))

    used: set[int] = set()
    alive: set[int] = set()
    for name, plain, whole in watched.matching(subnet):
        used.add(id(whole))
        part = tuple(map(slice, plain.shape))
        assert plain.grad is not None, name
        assert whole.grad is not None, name
        assert torch.equal(whole.grad[part], plain.grad), name
        outside = whole.grad.clone()
        outside[part] = 0
        assert not outside.any(), name
        alive |= {id(whole)} if plain.grad.any() else set()
    for name, parameter in watched.parameters.items():
        assert (parameter.grad is not None) == (id(parameter) in used), f"{name}: gradient of a layer that did not run"

    matched = set()
    for name, buffer in subnet.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            own = f"body.{watched.name(name)}"
            c = len(buffer)
            assert torch.equal(watched.statistics[own][:c], buffer), name
            assert torch.equal(watched.statistics[own][c:], before[own][c:]), name
            matched.add(own)
    moved = {name for name, tensor in watched.statistics.items() if not torch.equal(before[name], tensor)}
    assert moved == (matched if training else set())
    return subnet, alive


@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_of_every_axis(name: str) -> None:
    architectures = every_candidate(space(name))
    check_coverage(space(name), architectures)
    watched = Watched(supernet(name))
    made = watched.made
    x = images(made)
    outputs: list[Tensor] = []
    alive: set[int] = set()
    for a in architectures:
        subnet, moved = check_path(watched, a, x, training=True)
        alive |= moved
        outputs.append(made.eval()(x).detach())
        assert torch.equal(outputs[-1], subnet.eval()(x))
    assert all(not torch.equal(first, second) for first, second in itertools.pairwise(outputs))
    assert all(y.isfinite().all() and y.std(0).any() for y in outputs)
    dead = [key for key, parameter in watched.parameters.items() if id(parameter) not in alive]
    assert dead == [], "no architecture gave these a gradient, so nothing was compared"


@settings(deadline=None, max_examples=8, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), training=st.booleans(), name=st.sampled_from(NAMES[:4]))
def test_random_architectures(seed: int, training: bool, name: str) -> None:
    watched = Watched(supernet(name))
    a = watched.made.space.sample(np.random.default_rng(seed))
    check_path(watched, a, images(watched.made, n=3, seed=seed % 1000), training=training)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(NAMES))
def test_a_subnet_has_the_bits_of_its_architecture(seed: int, name: str) -> None:
    """Read from the Brevitas modules; the layers are those of the architecture, no more and no fewer."""
    made = supernet(name)
    a = made.space.sample(np.random.default_rng(seed))
    subnet = made.subnet(a)
    found = {
        n: (is_quant_layer(m), *read_bits(m))
        for n, m in subnet.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    }
    wanted = {}
    for layer, shape in made.space.active_layers(a):
        bits = (layer.weight.value(a), layer.act.value(a)) if layer.quantized else (None, None)
        wanted[layer.name] = (layer.quantized, *bits)
        module = subnet.get_submodule(layer.name)
        assert module.weight.numel() == shape.weights
        assert len(module.weight) == shape.out_channels
    assert found == wanted


def test_a_whole_training_step_keeps_path_and_subnet_equal() -> None:
    """Two steps of SGD with momentum on both sides: same loss, same weights, weights outside of the slice unchanged."""
    watched = Watched(supernet("separate"))
    made = watched.made
    a = every_candidate(made.space)[7]
    subnet = made.subnet(a)
    made.activate(a)
    x, g = images(made), torch.randn(4, made.space.spec.classes)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (made, subnet)]
    start = {name: tensor.clone() for name, tensor in made.named_parameters()}
    for _ in range(2):
        assert torch.equal(step(made, x, g), step(subnet, x, g))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    pairs = list(watched.matching(subnet))
    for name, plain, whole in pairs:
        assert torch.equal(whole[tuple(map(slice, plain.shape))], plain), name
    used = {id(whole) for _, _, whole in pairs}
    for name, parameter in made.named_parameters():
        assert torch.equal(parameter, start[name]) == (id(parameter) not in used), name


@pytest.mark.parametrize("name", ["digits-mixed", "separate"])
def test_shortcut_and_first_convolution_share_one_quantizer(name: str) -> None:
    made = supernet(name)
    layers = {(p.name, p.op): p.layer for p in places(made.body)}
    shortcut = layers["layer2.0.downsample.0", None].input_quant
    firsts = {"conv3x3": "conv1", "bottleneck": "conv1", "sepconv3x3": "depthwise1"}
    for op, first in firsts.items():
        assert layers[f"layer2.0.{first}", op].input_quant is shortcut
    # With an identity shortcut every operator has its own, and so do all other layers.
    own = [layer.input_quant for (n, _), layer in layers.items() if layer.input_quant and not n.startswith("layer2.0.")]
    assert len(set(map(id, own))) == len(own)
    readers = made.input_quantizers()
    assert {len(x) for q, x in readers.items() if q is not shortcut} == {1}
    assert shortcut is not None
    operators = [op for op in made.space.blocks[2].op.values if op != "skip"]
    assert len(readers[shortcut]) == 1 + len(operators)

    a = every_candidate(made.space)[0]
    subnet = made.subnet(a)
    first = subnet.get_submodule(f"layer2.0.{firsts[made.space.blocks[2].op.value(a)]}")
    assert first.input_quant is subnet.get_submodule("layer2.0.downsample.0").input_quant
    names = [n for n, _ in subnet.named_parameters() if n.startswith("layer2.0.") and "input_quant" in n]
    everywhere = [n for n, _ in subnet.named_parameters(remove_duplicate=False) if n in names or "downsample.0.in" in n]
    assert len(everywhere) == len(names) + 1


def test_a_float_shortcut_leaves_operators_their_own_quantizers() -> None:
    made = supernet("float shortcut")
    layers = {(p.name, p.op): p.layer for p in places(made.body)}
    separable, conv = layers["layer2.0.depthwise1", "sepconv3x3"], layers["layer2.0.conv1", "conv5x5"]
    assert separable.input_quant is not conv.input_quant
    assert list(separable.input_quant.by_bits) == ["3", "6"]
    assert list(conv.input_quant.by_bits) == ["2", "4"]
    assert not layers["layer2.0.downsample.0", None].searchable


def test_first_layer_is_signed_and_the_others_are_not() -> None:
    made = supernet("separate")
    a = made.space.canonical([{"act_bits": 2}.get(axis.kind, 1) for axis in made.space.axes])
    subnet = made.subnet(a)
    signed = {n: read_signed(m) for n, m in subnet.named_modules() if is_quant_layer(m)}
    assert signed.pop("conv1") is True
    assert set(signed.values()) == {False}
    assert [q.signed for q in made.input_quantizers()].count(True) == 1
    assert made.body.conv1.input_quant.signed
    assert "fc" in signed


def test_tied_layers_follow_one_axis() -> None:
    made = supernet("separate")
    tied = next(i for i, axis in enumerate(made.space.axes) if axis.name == "layer1.0.conv2.weight_bits")
    for candidate in range(3):
        a = [0] * len(made.space.axes)
        a[tied] = candidate
        subnet = made.subnet(made.space.canonical(a))
        bits = [read_bits(subnet.get_submodule(n))[0] for n in ("layer1.0.conv2", "layer2.1.conv2", "layer1.1.conv2")]
        assert bits == [(1, 3, None)[candidate], (1, 3, None)[candidate], 1]


def test_activate_requires_an_architecture_of_the_space() -> None:
    made = supernet("option a")
    before = made.architecture
    for bad in ((), (0,) * (len(made.space.axes) + 1), (9,) * len(made.space.axes)):
        with pytest.raises(SpaceError):
            made.activate(bad)
        with pytest.raises(SpaceError):
            made.subnet(bad)
    assert made.architecture == before
    made.activate(np.array(made.space.sample(np.random.default_rng(1))))
    assert all(type(i) is int for i in made.architecture)


def test_activation_ends_in_canonical_form() -> None:
    """The other axes of a skipped block have no effect."""
    made = supernet("digits-mixed")
    skip = [axis.candidates.index("skip") if axis.kind == "op" else 1 for axis in made.space.axes]
    made.activate(skip)
    assert made.architecture == made.space.canonical(skip)
    assert made.architecture != tuple(skip)


def test_a_subnet_is_a_snapshot_without_side_effects() -> None:
    made = supernet("digits-mixed")
    architectures = every_candidate(made.space)
    made.activate(architectures[3])
    x = images(made)
    made.eval()
    y = made(x)
    rng = torch.get_rng_state()
    subnet = made.subnet(architectures[4])
    assert torch.equal(torch.get_rng_state(), rng)
    assert made.architecture == architectures[3]
    assert torch.equal(made(x), y)
    ours = {tensor.data_ptr() for tensor in made.state_dict().values()}
    assert not ours & {tensor.data_ptr() for tensor in subnet.state_dict().values() if tensor.numel()}
    before = subnet(x)
    assert not torch.equal(before, y)
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.add_(0.1)
    assert torch.equal(made(x), y)
    fired = []
    subnet.layer1.register_forward_hook(lambda *_: fired.append(1))
    subnet.train()
    made(x)
    assert not fired
    # All Brevitas quantizers of a process share one stateless TensorClamp, a default argument.
    assert not any(m.training for m in made.modules() if type(m).__name__ != "TensorClamp")


def test_float_path_is_switched_on_and_survives_a_subnet() -> None:
    made = supernet("digits-mixed").eval()
    a = every_candidate(made.space)[0]
    made.activate(a)
    x = images(made)
    quantized = made(x)
    made.activate_float()
    floating = made(x)
    assert not torch.equal(quantized, floating)
    assert torch.equal(made.subnet(a)(x), quantized)
    assert torch.equal(made(x), floating), "subnet() brought the quantizers back"
    assert made.architecture == a
    made.activate(a)
    assert torch.equal(made(x), quantized)


def test_deepcopy_is_independent() -> None:
    made = supernet("separate").eval()
    a, *_, b = every_candidate(made.space)
    made.activate(a)
    x = images(made)
    y = made(x).detach()
    twin = copy.deepcopy(made)
    assert torch.equal(twin(x), y)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.9).add_(0.02)
        for name, buffer in twin.named_buffers():
            if "running" in name:
                buffer.add_(0.1)
    twin.activate(b)
    assert made.architecture == a
    assert torch.equal(made(x), y)
    twin.activate(a)
    changed = twin(x)
    assert not torch.equal(changed, y)
    assert torch.equal(twin.subnet(a)(x), changed), "the copy's quantizers still follow the original's weights"
    assert {id(q) for q in twin.input_quantizers()}.isdisjoint(map(id, made.input_quantizers()))


def test_weights_come_from_the_seed_alone() -> None:
    rng = torch.get_rng_state()
    first = build(space("float shortcut"), seed=3)
    assert torch.equal(torch.get_rng_state(), rng)
    torch.manual_seed(99)
    second, other = build(space("float shortcut"), seed=3), build(space("float shortcut"), seed=4)
    same = {name: torch.equal(a, b) for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True)}
    assert all(same.values())
    assert not torch.equal(first.body.conv1.weight, other.body.conv1.weight)


def test_reset_makes_everything_fresh_again() -> None:
    made, fresh = supernet("float shortcut"), build(space("float shortcut"), seed=7)
    made.reset_parameters(7)
    for (name, a), b in zip(made.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b) or "scaling_impl" in name, name
    weight = fresh.body.layer2[1].candidates["conv5x5"].conv2.weight
    fan_in = weight[0].numel()
    assert float(weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    assert float(fresh.body.fc.weight.detach().std()) == pytest.approx((1 / 32) ** 0.5, rel=0.15)


def test_cost_and_samples_within_a_budget() -> None:
    made = supernet("digits-mixed")
    rng = np.random.default_rng(0)
    found = made.sample(rng, 20, bitops_budget="3M", params_budget="20K")
    assert len(found) == 20
    assert len(set(found)) > 10
    costs = [made.cost(a) for a in found]
    assert all(c["bitops"] <= 3e6 and c["params"] <= 20e3 for c in costs)
    assert costs[0]["architecture"] == made.space.encode(found[0])
    assert costs[0]["space"] == "digits-mixed"
    with pytest.raises(BudgetError):
        made.sample(rng, 1, bitops_budget="1")
    with pytest.raises(TypeError, match="budgets end in _budget"):
        made.sample(rng, 1, bitops="3M")


def test_a_body_with_other_network_shapes_is_rejected() -> None:
    """Stale network shapes would make every cost silently wrong."""

    def made(backbone: str, classes: int) -> Supernet:
        raw = {"name": "x", "backbone": backbone, "input": [3, 8, 8], "classes": classes}
        return build(space_of(parse_spec(raw, "x")))

    small = made("resnet20", 10)
    with pytest.raises(ModelError, match="measure the network shapes again: layer 'linear' differs"):
        Supernet(small.space, made("resnet20", 11).body)
    deep = made("resnet32", 10)
    with pytest.raises(ModelError, match=r"layer 'layer1.3.conv1' is not in it"):
        Supernet(small.space, deep.body)
    with pytest.raises(ModelError, match=r"layer 'layer1.3.conv1' differs"):
        Supernet(deep.space, small.body)
    assert Supernet(small.space, small.body).space is small.space
