"""Faster training steps: the same values and gradients with fewer operations."""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import spos_quant as sq
from spos_quant.backbones.build import build, space_of
from spos_quant.config import validate
from spos_quant.quant import fused_add, fused_quant, kernels
from spos_quant.quant.fused_add import residual_sum
from spos_quant.quant.fused_relu import absorbed, fused_relus
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.blocks import PlainBlock
from spos_quant.supernet.joins import chain
from spos_quant.supernet.network import blocks_in_a_row, relus_in_front
from spos_quant.supernet.supernet import Supernet

AS_IF_COMPILED = replace(kernels.EAGER, compiled=True)
"""Takes the code paths of compiled kernels without compiling any."""


def supernet(op: str, act_bits: list[int | None], backbone: str = "resnet20") -> Supernet:
    torch.manual_seed(0)
    raw: dict[str, Any] = {
        "name": "small",
        "backbone": backbone,
        "input": [3, 8, 8],
        "classes": 4,
        "axes": {
            "op": [op],
            "weight_bits": [2, 4],
            "act_bits": ["float" if bits is None else bits for bits in act_bits],
        },
        "bits_per": "layer",
    }
    return build(space_of(validate(SpaceSpec, raw, "small")))


def step(model: nn.Module, fast: bool, compiled: bool = False) -> tuple[Tensor, list[Tensor | None]]:
    torch.manual_seed(1)
    x = torch.randn(3, 3, 8, 8)
    around: AbstractContextManager[None] = sq.fast_steps(model, compiled=compiled) if fast else nullcontext()
    model.train().zero_grad()
    with around:
        y = model(x)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return y, [p.grad for p in model.parameters()]


class Relus(TorchDispatchMode):
    """Counts operations, among them those of ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(func).split(".")[1]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("op", "inside"), [("conv3x3", 1), ("bottleneck", 2), ("sepconv3x3", 3)])
def test_values_and_gradients_are_the_same(op: str, inside: int, static: bool) -> None:
    model: nn.Module = supernet(op, [2, 4])
    assert isinstance(model, Supernet)
    model.activate(model.space.sample(np.random.default_rng(0)))
    if static:
        model = model.subnet(model.space.sample(np.random.default_rng(0)))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with Relus() as before:
        expected, gradients = step(model, fast=False)
    model.load_state_dict(state)
    with Relus() as after:
        found, ours = step(model, fast=True)
    assert before.found["threshold_backward"] - after.found["threshold_backward"] == 9 * inside
    assert torch.equal(found, expected)
    assert any(g is not None and g.abs().max() > 0 for g in ours)
    for a, b in zip(ours, gradients, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)  # type: ignore[arg-type]
    model.load_state_dict(state)
    assert torch.equal(step(model, fast=False)[0], expected), "everything is as it was"


def test_a_float_path_applies_relus_too() -> None:
    model = supernet("conv3x3", [4])
    model.activate(model.space.sample(np.random.default_rng(0)))
    for module in model.modules():
        if hasattr(module, "act_bits"):
            module.act_bits = None
    expected, gradients = step(model, fast=False)
    found, ours = step(model, fast=True)
    assert torch.equal(found, expected)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, gradients, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_sum_and_its_relu(monkeypatch: pytest.MonkeyPatch, memory: torch.memory_format) -> None:
    """One operation if kernels are compiled, which is tested without compiling them."""
    torch.manual_seed(0)
    made = []
    for compiled in (False, True):
        kernels_in_use = replace(kernels.EAGER, compiled=compiled)
        monkeypatch.setattr(fused_add, "active", lambda _x, used=kernels_in_use: used)
        torch.manual_seed(0)
        a, b = (torch.randn(2, 3, 4, 5, requires_grad=True) for _ in range(2))
        y = residual_sum(a.contiguous(memory_format=memory), b.contiguous(memory_format=memory), None, relu=True)
        gradients = torch.autograd.grad((y**3).sum(), (a, b), create_graph=True)
        second = torch.autograd.grad((gradients[0] * gradients[1]).sum(), (a, b))
        assert y.is_contiguous(memory_format=memory)
        made.append((type(y.grad_fn).__name__, y, *gradients, *second))
    assert [one[0] for one in made] == ["ReluBackward0", "_SumReluBackward"]
    for ours, theirs in zip(made[1][1:], made[0][1:], strict=True):
        assert torch.equal(ours, theirs)
    odd = residual_sum(torch.ones(2, 3, 4, 4), torch.ones(3, 1, 1) - 3, None, relu=True)
    assert torch.equal(odd, torch.zeros(2, 3, 4, 4)), "other shapes are summed as torch does"


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    ("backbone", "op", "folded"),
    # In a ResNet all sums but the last, which the pooling reads; in a MobileNet all ten, as a block follows each.
    [("resnet20", "conv3x3", 8), ("resnet18", "conv3x3", 7), ("mobilenetv2-cifar", "mbconv3x3", 10)],
)
def test_sums_are_quantized_in_the_same_kernel(
    monkeypatch: pytest.MonkeyPatch, backbone: str, op: str, folded: int, static: bool
) -> None:
    """Without compiled kernels, so that everything else is the same to the last bit."""
    model: nn.Module = supernet(op, [2, 4], backbone)
    assert isinstance(model, Supernet)
    model.activate(model.space.uniform(4, 4))
    if static:
        model = model.subnet(model.space.uniform(4, 4))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected, gradients = step(model, fast=False)
    model.load_state_dict(state)
    monkeypatch.setattr(fused_add, "active", lambda _x: AS_IF_COMPILED)
    popped: Counter[bool] = Counter()

    def pop(
        x: Tensor, quantizer: fused_quant.FusedIntQuant, before: Any = fused_quant.PrecomputedActivation.pop
    ) -> Tensor | None:
        found: Tensor | None = before(x, quantizer)
        popped[found is not None] += 1
        return found

    monkeypatch.setattr(fused_quant.PrecomputedActivation, "pop", staticmethod(pop))
    found, ours = step(model, fast=True)
    assert popped[True] == folded
    assert torch.equal(found, expected)
    for (name, _), a, b in zip(model.named_parameters(), ours, gradients, strict=True):
        if a is None or b is None:
            assert a is b
        elif "input_quant" in name:  # the gradient of a clip is a sum
            torch.testing.assert_close(a, b)
        else:
            assert torch.equal(a, b)
    popped.clear()
    assert torch.equal(step(copy.deepcopy(model), fast=False)[0], step(model, fast=False)[0])
    assert not popped[True], "everything is as it was"


def test_blocks_with_hooks_are_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_add, "active", lambda _x: AS_IF_COMPILED)
    model = supernet("conv3x3", [4])
    model.activate(model.space.uniform(4, 4))
    attached: list[object] = []
    attach = staticmethod(lambda *given: attached.append(given))
    monkeypatch.setattr(fused_quant.PrecomputedActivation, "attach", attach)
    pairs = list(blocks_in_a_row(model))
    assert len(pairs) == 8
    x = torch.randn(3, 3, 8, 8)
    with sq.fast_steps(model, compiled=False):
        # A block makes one sum and reads one; a layer reads one.
        for watched, left in ((pairs[1][0], 6), (pairs[3][1], 4), (pairs[5][1].first, 3)):
            assert watched is not None
            watched.register_forward_pre_hook(lambda *_: None)  # also while it is open
            attached.clear()
            model(x)
            assert len(attached) == left


@pytest.mark.slow
@pytest.mark.parametrize("op", ["conv3x3", "bottleneck", "sepconv3x3"])
def test_a_compiled_step_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    model = supernet(op, [2, 4])
    model.activate(model.space.sample(np.random.default_rng(0)))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected, gradients = step(model, fast=False)
    model.load_state_dict(state)
    monkeypatch.setattr(kernels, "_SIZES", range(2, 2**31))
    with compiled_kernels() as compiled:
        assert compiled
    found, ours = step(model, fast=True, compiled=True)
    assert torch.equal(found, expected)
    for a, b in zip(ours, gradients, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(b.abs().max())))


def test_relus_without_a_learned_clip_behind_or_with_hooks_are_kept() -> None:
    model = supernet("conv3x3", [4])
    pairs = list(relus_in_front(model))
    assert len(pairs) == 9
    pairs[0][1].input_quant = None  # type: ignore[assignment]
    pairs[1][0].register_forward_hook(lambda *_: None)
    pairs[2][1].register_forward_pre_hook(lambda *_: None)
    (proxy,) = pairs[3][1].input_quant.by_bits.values()  # type: ignore[union-attr]
    proxy.fused_activation_quant_proxy.tensor_quant.scaling_impl = nn.Identity()
    with fused_relus(pairs):
        assert [relu for relu, _ in pairs if relu not in absorbed] == [relu for relu, _ in pairs[:4]]
    assert not [relu for relu, _ in pairs if relu in absorbed]


class _Twice(nn.Module):
    """A plain block whose sequence runs one ReLU twice."""

    def __init__(self) -> None:
        super().__init__()
        model = supernet("conv3x3", [4])
        model.activate(model.space.uniform(4, 4))
        block = model.subnet(model.space.uniform(4, 4)).layer1[0]  # type: ignore[index]
        relu = block.relu1
        layers = {"conv1": block.conv1, "bn1": block.bn1, "a": relu, "conv2": block.conv2, "bn2": block.bn2, "b": relu}
        self.block = PlainBlock(layers, tuple(layers), None, chain)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


def test_a_relu_that_runs_twice_is_kept() -> None:
    model = _Twice().eval()
    assert list(relus_in_front(model)) == []
    x = torch.randn(2, 16, 8, 8)
    expected = model(x)
    with sq.fast_steps(model, compiled=False):
        assert torch.equal(model(x), expected)


def test_contexts_nest_and_errors_are_the_users() -> None:
    model = supernet("conv3x3", [4])
    model.activate(model.space.uniform(4, 4))
    subnet = model.subnet(model.space.uniform(4, 4))
    for one in (model, subnet):
        with (
            pytest.raises(ValueError, match="mine"),
            sq.fast_steps(one, compiled=False),
            sq.fast_steps(one, compiled=False),
        ):
            raise ValueError("mine")
        with sq.fast_steps(one, compiled=False):
            with sq.fast_steps(one, compiled=False):
                pass
            assert all(relu in absorbed for relu, _ in relus_in_front(one))
        assert not any(relu in absorbed for relu, _ in relus_in_front(one))


@pytest.mark.parametrize("act_bits", [[4], [4, None]])
def test_copies_made_inside_are_complete(act_bits: list[int | None]) -> None:
    model = supernet("conv3x3", act_bits).eval()
    path = model.space.sample(np.random.default_rng(0))
    x = torch.randn(3, 3, 8, 8)
    model.activate(path)
    expected, gradients = step(model.subnet(path), fast=False)
    with sq.fast_steps(model, compiled=False):
        subnet, copied = model.subnet(path), copy.deepcopy(model)
    found, ours = step(subnet, fast=False)
    assert torch.equal(found, expected)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, gradients, strict=True))  # type: ignore[arg-type]
    assert torch.equal(step(copied, fast=False)[0], step(model, fast=False)[0])
    assert torch.equal(copied.eval()(x), model.eval()(x))


def test_weights_loaded_inside_get_gradients() -> None:
    made = supernet("conv3x3", [4])
    made.activate(made.space.uniform(4, 4))
    model = made.subnet(made.space.uniform(4, 4))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, expected = step(model, fast=False)
    with sq.fast_steps(model, compiled=False):
        model.load_state_dict(state)
        _, found = step(model, fast=False)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))  # type: ignore[arg-type]


def test_minus_infinity_before_a_relu_has_no_gradient() -> None:
    x = torch.tensor([-torch.inf, 1.0, 2.0])
    upstream, scale, qmin, qmax, clipped = torch.ones(3), *map(torch.tensor, (0.5, 0.0, 3.0, 0.0))
    folded = kernels.gradients(upstream, x, scale, qmin, qmax, clipped, torch.tensor(0.0))
    plain = kernels.gradients(upstream, x.relu(), scale, qmin, qmax, clipped, torch.tensor(-torch.inf))
    assert torch.equal(folded[1], plain[1])
    assert folded[0].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.slow
def test_tensors_without_memory_are_not_for_compiled_kernels() -> None:
    with compiled_kernels() as compiled:
        assert compiled
        shape = (1, 16, 32, 32)
        made = residual_sum(*(torch.empty(shape, device="meta") for _ in range(2)), None, relu=True)
        assert made.shape == shape
        assert kernels.active(torch.empty(shape, device="meta")) is kernels.EAGER
        assert kernels.active(torch.empty(shape)) is not kernels.EAGER
        raw = {"name": "new", "backbone": "resnet20", "input": [3, 32, 32], "classes": 7, "axes": {"bits": [[3, 5]]}}
        assert build(space_of(validate(SpaceSpec, raw, "new")))
