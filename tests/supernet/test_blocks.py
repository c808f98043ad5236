from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from spos_quant.quant.static import StaticMaker
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.supernet.blocks import ChoiceBlock, Operator, PlainBlock, scaled
from spos_quant.supernet.joins import Join, chain, concatenate, residual, residual_relu, split
from spos_quant.supernet.layers import SqueezeExcite, Zero, conv


@pytest.mark.parametrize(
    ("channels", "factor", "divisor", "expected"),
    [
        (64, 0.5, 2, 32),
        (64, 1.0, 2, 64),
        (64, 1.5, 2, 96),
        (5, 1.0, 2, 6),  # half up
        (3, 1.0, 2, 4),
        (10, 0.33, 2, 4),
        (2, 0.1, 2, 2),  # at least the divisor
        (100, 0.2, 8, 24),  # 20 is as near to 16: half up
        (100, 0.19, 8, 16),
        (7, 1.0, 1, 7),
    ],
)
def test_scaled(channels: int, factor: float, divisor: int, expected: int) -> None:
    assert scaled(channels, factor, divisor) == expected


def pair(inner: int = 6) -> Operator:
    layers = {"a": conv(4, inner, 3), "norm": SwitchBatchNorm2d(inner), "relu": nn.ReLU(), "b": conv(inner, 4, 1)}
    widths = [2, inner]
    return Operator(layers, {"a": ([4, 4], widths), "norm": (widths, widths), "b": (widths, [4, 4])})


def test_operator_runs_its_layers_in_order_at_the_active_width() -> None:
    operator = pair()
    x = torch.randn(2, 4, 5, 5)
    outputs = []
    for index, inner in enumerate((2, 6)):
        operator.activate_width(index)
        a, norm, b = operator.a, operator.norm, operator.b
        assert isinstance(a, SwitchLayer)
        assert isinstance(b, SwitchLayer)
        assert isinstance(norm, SwitchBatchNorm2d)
        assert (a.active_in, a.active_out, norm.active, b.active_in, b.active_out) == (4, inner, inner, inner, 4)
        outputs.append(operator(x))
        h = nn.functional.conv2d(x, a.weight[:inner], padding=1)
        h = nn.functional.batch_norm(h, None, None, norm.weight[:inner], norm.bias[:inner], training=True).relu()
        torch.testing.assert_close(outputs[-1], nn.functional.conv2d(h, b.weight[:, :inner]))
    assert not torch.equal(*outputs)


def block(downsample: nn.Module | None) -> ChoiceBlock:
    return ChoiceBlock({"first": pair(), "second": pair(8), "skip": Operator({})}, downsample).eval()


@pytest.mark.parametrize("downsample", [lambda: None, lambda: nn.Sequential(conv(4, 4, 1), SwitchBatchNorm2d(4))])
def test_choice_block_is_the_residual_of_its_active_operator(downsample: Callable[[], nn.Module | None]) -> None:
    made = block(downsample())
    x = torch.randn(2, 4, 5, 5)
    shortcut = x if made.downsample is None else made.downsample(x)
    outputs = []
    for index, name in enumerate(("first", "second")):
        for width in (0, 1):
            made.activate(index, width)
            operator = made.candidates[name]
            outputs.append(made(x))
            assert torch.equal(outputs[-1], (operator(x) + shortcut).relu())
    assert len({tuple(y.flatten().tolist()) for y in outputs}) == 4
    made.activate(2, 1)
    assert torch.equal(made(x), shortcut.relu())


@pytest.mark.parametrize("downsample", [lambda: None, lambda: nn.Sequential(conv(4, 4, 1), SwitchBatchNorm2d(4))])
@pytest.mark.parametrize(("op", "names"), [(0, ["a", "norm", "relu", "b"]), (2, [])])
def test_static_block(downsample: Callable[[], nn.Module | None], op: int, names: list[str]) -> None:
    made = block(downsample())
    made.activate(op, 0)
    plain = made.static(StaticMaker())
    assert isinstance(plain, PlainBlock)
    assert not plain.training
    assert [n for n, _ in plain.named_children()] == [*names, *(["downsample"] if made.downsample is not None else [])]
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(plain(x), made(x))
    assert not torch.equal(plain(x), x)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@pytest.mark.parametrize(
    ("join", "row", "shortcut", "expected"),
    [
        (residual_relu, ["a", "b"], None, [0.0, 15.0]),
        (residual_relu, ["a"], "b", [0.0, 12.0]),
        (residual_relu, [], "b", [0.0, 6.0]),
        (residual_relu, [], None, [0.0, 3.0]),
        (residual, ["a"], None, [-3.0, 9.0]),
        (residual, [], "a", [-2.0, 6.0]),
        (chain, ["a", "b"], None, [-4.0, 12.0]),
        (chain, [], None, [-1.0, 3.0]),
        (split, ["a"], None, [-1.0, 6.0]),
        (split, [], None, [-1.0, 3.0]),
        (concatenate, ["a"], "b", [-2.0, 6.0, -2.0, 6.0]),
        (concatenate, [], None, [-1.0, 3.0, -1.0, 3.0]),
    ],
)
def test_joins_by_hand(join: Join, row: list[str], shortcut: str | None, expected: list[float]) -> None:
    x = torch.tensor([[-1.0, 3.0]])
    assert PlainBlock({"a": Twice(), "b": Twice()}, row, shortcut, join)(x).tolist() == [expected]


def test_split_is_the_authors_channel_shuffle() -> None:
    """Pairs of neighbouring channels, the first of each kept, as Megvii's ShuffleNetV2 writes it."""
    x = torch.randn(3, 8, 5, 5)
    pairs = x.reshape(3 * 4, 2, 25).permute(1, 0, 2).reshape(2, -1, 4, 5, 5)
    assert torch.equal(split(x, Twice(), None), torch.cat((pairs[0], 2 * pairs[1]), 1))


def test_squeeze_excite_is_torchvisions() -> None:
    theirs = SqueezeExcitation(16, 8, scale_activation=nn.Hardsigmoid)
    ours = SqueezeExcite(16, 8, signed=True)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(theirs.get_parameter(name))
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_zero() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(Zero()(x), torch.zeros_like(x))


def test_the_shortcut_comes_first() -> None:
    """A shared quantizer is then named after it, whatever operators a space has, which `inherit` relies on."""
    made = block(nn.Sequential(conv(4, 4, 1)))
    assert [name for name, _ in made.named_children()] == ["downsample", "candidates"]
