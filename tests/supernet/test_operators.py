"""Operators against plain torch networks written by hand, and their costs against formulas."""

from __future__ import annotations

import pytest
import torch
from supernet_cases import space
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from spos_quant.errors import ConfigError
from spos_quant.quant.static import StaticMaker
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.supernet.blocks import BlockSpec, Operator
from spos_quant.supernet.layers import conv
from spos_quant.supernet.operators import operators
from spos_quant.testing import check_operator

FACTORS = (0.5, 1.0, 1.5)


def by_hand(op: str, i: int, o: int, stride: int, inner: int) -> nn.Sequential:
    def cbr(i: int, o: int, k: int, s: int = 1, groups: int = 1, *, relu: bool = True) -> list[nn.Module]:
        made = [nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
        return [*made, nn.ReLU()] if relu else made

    layers = {
        "conv3x3": lambda: [*cbr(i, inner, 3, stride), *cbr(inner, o, 3, relu=False)],
        "conv5x5": lambda: [*cbr(i, inner, 5, stride), *cbr(inner, o, 5, relu=False)],
        "bottleneck": lambda: [*cbr(i, inner, 1), *cbr(inner, inner, 3, stride), *cbr(inner, o, 1, relu=False)],
        "sepconv3x3": lambda: [
            *cbr(i, i, 3, stride, i),
            *cbr(i, inner, 1),
            *cbr(inner, inner, 3, 1, inner),
            *cbr(inner, o, 1, relu=False),
        ],
        "skip": lambda: [],
    }
    return nn.Sequential(*layers[op]())


def macs_by_hand(op: str, i: int, o: int, inner: int, pixels_in: int, pixels: int) -> int:
    return {
        "conv3x3": 9 * pixels * (i * inner + inner * o),
        "conv5x5": 25 * pixels * (i * inner + inner * o),
        "bottleneck": pixels_in * i * inner + 9 * pixels * inner * inner + pixels * inner * o,
        "sepconv3x3": 9 * pixels * i + pixels * i * inner + 9 * pixels * inner + pixels * inner * o,
        "skip": 0,
    }[op]


@pytest.mark.parametrize("op", ["conv3x3", "conv5x5", "bottleneck", "sepconv3x3"])
@pytest.mark.parametrize("shape", [(8, 16, 2), (16, 16, 1)])
def test_plain_counterpart(op: str, shape: tuple[int, int, int]) -> None:
    inputs, outputs, stride = shape
    operator = operators[op](BlockSpec(inputs, outputs, stride, widths=FACTORS))
    x = torch.randn(3, inputs, 7, 7)
    for index, factor in enumerate(FACTORS):
        operator.activate_width(index)
        inner = int((outputs // 4 if op == "bottleneck" else outputs) * factor)
        reference = by_hand(op, inputs, outputs, stride, inner)
        mine = [m for m in operator.modules() if isinstance(m, (SwitchLayer, SwitchBatchNorm2d, nn.ReLU))]
        assert len(mine) == len(reference)
        for ours, theirs in zip(mine, reference, strict=True):
            if isinstance(ours, nn.ReLU):
                assert isinstance(theirs, nn.ReLU)
                continue
            with torch.no_grad():
                for name in ("weight", "bias", "running_mean", "running_var"):
                    target = getattr(theirs, name, None)
                    if target is not None:
                        source = ours.active_weight() if isinstance(ours, SwitchLayer) else getattr(ours, name)
                        target.copy_(source[: len(target)])
        expected = reference(x)
        assert torch.equal(operator(x), expected)
        assert expected.shape == (3, outputs, -(-7 // stride), -(-7 // stride))
        assert torch.equal(StaticMaker().module(operator)(x), expected)


@pytest.mark.parametrize(("op", "peer"), [("conv3x3", BasicBlock), ("bottleneck", Bottleneck)])
def test_names_and_shapes_are_torchvisions(op: str, peer: type[nn.Module]) -> None:
    planes = 4 if op == "bottleneck" else 16
    theirs = {n: p.shape for n, p in peer(16, planes).named_parameters()}
    operator = operators[op](BlockSpec(16, 16))
    assert {n: p.shape for n, p in operator.named_parameters()} == theirs


def test_skip_is_nothing() -> None:
    skip = operators["skip"](BlockSpec(16, 32, 2, widths=FACTORS))
    x = torch.randn(1, 16, 4, 4)
    assert skip(x) is x
    skip.activate_width(1)
    assert list(skip.parameters()) == []


def test_narrowest_and_widest_channels() -> None:
    operator = operators["bottleneck"](BlockSpec(4, 4, widths=(0.1, 2.0)))
    widths = []
    for index in (0, 1):
        operator.activate_width(index)
        widths.append(operator.conv2.active_out)
    assert widths == [2, 2], "rounded up to the divisor"
    operator = operators["conv3x3"](BlockSpec(4, 10, widths=(0.25, 1.5)))
    assert operator.conv1.weight.shape[0] == 16  # 15 rounds half up


def test_macs_of_the_network_shapes_match_formulas() -> None:
    of = space("digits-mixed")
    sizes = {"layer1.0": (16, 16, 64, 64), "layer1.1": (16, 16, 64, 64)}
    sizes |= {"layer2.0": (16, 32, 64, 16), "layer2.1": (32, 32, 16, 16)}
    for index, block in enumerate(of.blocks):
        i, o, pixels_in, pixels = sizes[block.name]
        for op_index, op in enumerate(block.op.values):
            mine = [x for x in of.layers if x.block == index and x.op == op_index]
            for width, factor in enumerate(FACTORS):
                inner = int((o // 4 if op == "bottleneck" else o) * factor)
                found = sum(x.shapes[width if len(x.shapes) > 1 else 0].macs for x in mine)
                assert found == macs_by_hand(op, i, o, inner, pixels_in, pixels), (block.name, op, factor)
    assert {x.name: x.shapes[0].macs for x in of.layers if x.block is None} == {"conv1": 64 * 9 * 16, "fc": 320}
    assert [x.shapes[0].macs for x in of.layers if x.name == "layer2.0.downsample.0"] == [16 * 16 * 32]


def test_conv_keeps_the_size() -> None:
    for kernel in (1, 3, 5, 7):
        made = conv(2, 4, kernel, groups=2, signed=True)
        assert made.signed
        assert made.bias is None
        assert made(torch.randn(1, 2, 9, 9)).shape == (1, 4, 9, 9)
        assert conv(2, 4, kernel, 2)(torch.randn(1, 2, 9, 9)).shape == (1, 4, 5, 5)


@pytest.mark.parametrize("name", list(operators))
def test_contract(name: str) -> None:
    check_operator(operators[name], changes_shape=name not in ("none", "avg_pool_3x3"))


def test_the_contract_rejects_wrong_operators() -> None:
    def unsigned(block_spec: BlockSpec) -> Operator:
        return Operator({"conv": conv(block_spec.inputs, block_spec.outputs, 3, block_spec.stride)})

    def wrong_shape(block_spec: BlockSpec) -> Operator:
        return Operator({"conv": conv(block_spec.inputs, 4, 3, block_spec.stride, signed=True)})

    def unused(block_spec: BlockSpec) -> Operator:
        made = Operator({"conv": conv(block_spec.inputs, block_spec.outputs, 3, block_spec.stride, signed=True)})
        made.add_module("beside", conv(1, 1, 1))
        return made

    for make, message in ((unsigned, "not signed"), (wrong_shape, "gives"), (unused, "on no path")):
        with pytest.raises(AssertionError, match=message):
            check_operator(make)


def test_unknown_operator() -> None:
    with pytest.raises(ConfigError, match="unknown operator 'conv3x4'; did you mean 'conv3x3'"):
        operators["conv3x4"]
