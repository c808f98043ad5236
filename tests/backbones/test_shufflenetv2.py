"""The paper's network compared with a reference implementation and with the published costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spos_quant.backbones.build import build, load_space
from spos_quant.cost.table import CostTable

PAPER = "(2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3)"
SPACE = load_space("shufflenetv2-blocks")


def cbr(i: int, o: int) -> list[nn.Module]:
    return [nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]


def dw(c: int, k: int, s: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(c, c, k, s, k // 2, groups=c, bias=False), nn.BatchNorm2d(c)]


class Unit(nn.Module):
    def __init__(self, choice: int, i: int, o: int, mid: int, s: int) -> None:
        super().__init__()
        k = (3, 5, 7, 3)[choice]
        if s == 2:
            self.branch1 = nn.Sequential(*dw(i, k, 2), *cbr(i, i))
        row = [*cbr(i, mid), *dw(mid, k, s), *cbr(mid, o)]
        if choice == 3:
            row = [*dw(i, 3, s), *cbr(i, mid), *dw(mid, 3), *cbr(mid, mid), *dw(mid, 3), *cbr(mid, o)]
        self.branch2 = nn.Sequential(*row)
        self.s = s

    def forward(self, x: Tensor) -> Tensor:
        if self.s == 2:
            return torch.cat([self.branch1(x), self.branch2(x)], 1)
        n, c, h, w = x.shape
        kept, worked = x.reshape(n, c // 2, 2, h, w).unbind(2)
        return torch.cat([kept, self.branch2(worked)], 1)


class Network(nn.Module):
    def __init__(self, choices: tuple[int, ...], factors: tuple[float, ...] = (1.0,) * 20) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        i, at = 16, 0
        for stage, (depth, o) in enumerate(((4, 64), (4, 160), (8, 320), (4, 640)), 1):
            units = []
            for n in range(depth):
                mid = round(o // 2 * factors[at])
                units.append(
                    Unit(choices[at], i, o - i, mid, 2) if n == 0 else Unit(choices[at], o // 2, o // 2, mid, 1)
                )
                i, at = o, at + 1
            self.add_module(f"stage{stage}", nn.Sequential(*units))
        self.conv5 = nn.Sequential(*cbr(640, 1024))
        self.fc = nn.Linear(1024, 1000, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.conv1(x)))))
        y: Tensor = self.fc(self.conv5(x).mean([2, 3]))
        return y


def counted(network: nn.Module) -> tuple[int, int]:
    """Multiply-adds at 224 x 224 by torch's counter, and the parameters of convolutions and linear layers."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.to("meta").eval()(torch.empty(1, 3, 224, 224, device="meta"))
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return counter.get_total_flops() // 2, sum(p.numel() for m in layers for p in m.parameters())


@pytest.mark.parametrize(
    ("text", "macs", "params"),
    [
        (PAPER, 322_918_720, 3_529_312),
        ("0 " * 20, 295_842_496, None),
        ("3," * 20, 358_825_920, None),
        (str(list(range(4)) * 5), None, None),
    ],
)
def test_costs_of_the_papers_architectures_are_exact(text: str, macs: int | None, params: int | None) -> None:
    architecture = SPACE.decode(text)
    table = CostTable(SPACE)
    ours = table.total(architecture, "macs"), table.total(architecture, "params")
    assert ours == counted(Network(architecture))
    assert macs in (None, ours[0])
    assert params in (None, ours[1])


def test_space_sizes() -> None:
    assert SPACE.size == 4**20
    assert load_space("shufflenetv2-channels").size == 10**20
    assert load_space("resnet18-channels").size == 10**8


def test_outputs_equal_the_reference_network() -> None:
    architecture = SPACE.decode(PAPER)
    theirs = Network(architecture).eval()
    with torch.no_grad():
        for tensor in (t for t in theirs.state_dict().values() if t.dim() == 1):
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    subnet = build(SPACE).subnet(architecture).eval()
    assert {n: t.shape for n, t in subnet.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    subnet.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(subnet(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_channels_of_a_random_architecture() -> None:
    space = load_space("shufflenetv2-channels")
    architecture = space.sample(np.random.default_rng(0))
    factors = tuple(space.axes[i].candidates[k] for i, k in enumerate(architecture))
    table = CostTable(space)
    expected = counted(
        Network((0,) * 20, tuple(2 * round(f * h / 2) / h for f, h in zip(factors, halves(), strict=True)))
    )
    assert (table.total(architecture, "macs"), table.total(architecture, "params")) == expected


def halves() -> list[int]:
    """Inner channels per block at width 1.0; scaled ones are rounded to even numbers."""
    return [c // 2 for depth, c in ((4, 64), (4, 160), (8, 320), (4, 640)) for _ in range(depth)]


def test_a_supernet_of_channels_is_as_large_as_its_widest_path() -> None:
    """All widths share slices of one weight tensor, so more candidates need no more weights."""
    space = load_space("shufflenetv2-channels")
    widest = counted(Network((0,) * 20, (2.0,) * 20))[1]
    made = build(space)
    weights = sum(p.numel() for p in made.parameters() if p.dim() > 1)
    assert weights == widest
