"""NAS-Bench-201 compared with a reference network, the published costs and the benchmark's architecture strings."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spos_quant.backbones.build import build, load_space, space_of
from spos_quant.cost.table import CostTable
from spos_quant.errors import SpaceError
from spos_quant.space.spec import parse_spec
from spos_quant.stages.cost import architecture_cost

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CHEAP = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
SPACE = load_space("nasbench201")


def rcb(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class Edge(nn.Module):
    def __init__(self, op: str, c: int) -> None:
        super().__init__()
        self.kind = op
        if "conv" in op:
            self.op = rcb(c, c, int(op[-1]))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "none":
            return torch.zeros_like(x)
        if self.kind == "avg_pool_3x3":
            weight = torch.ones(x.shape[1], 1, 3, 3)
            inside = F.conv2d(torch.ones_like(x), weight, padding=1, groups=x.shape[1])
            return F.conv2d(x, weight, padding=1, groups=x.shape[1]) / inside
        return self.op(x) if "conv" in self.kind else x  # type: ignore[no-any-return]


class Cell(nn.Module):
    def __init__(self, ops: tuple[str, ...], c: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Edge(op, c) for op in ops)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e, f = self.layers
        n1 = a(x)
        n2 = b(x) + c(n1)
        y: Tensor = d(x) + e(n1) + f(n2)
        return y


class Named(nn.Module):
    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.op(x)
        return y


class Reduction(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv_a, self.conv_b = Named(rcb(c, 2 * c, 3, 2)), Named(rcb(2 * c, 2 * c, 3))
        self.downsample = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c, 2 * c, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_b(self.conv_a(x)) + self.downsample(x)
        return y


class Network(nn.Module):
    def __init__(self, ops: tuple[str, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        stages = [[Cell(ops, c) for _ in range(5)] for c in (16, 32, 64)]
        self.cells = nn.Sequential(*stages[0], Reduction(16), *stages[1], Reduction(32), *stages[2])
        self.lastact = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU())
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(F.adaptive_avg_pool2d(self.lastact(self.cells(self.stem(x))), 1).flatten(1))
        return y


def test_15625_architectures_by_enumeration() -> None:
    found = {SPACE.decode(SPACE.notation(a) or "") for a in product(range(5), repeat=6)}
    assert len(found) == SPACE.size == 15_625
    assert load_space("nasbench201-mixed").size > 5**6


def test_published_costs() -> None:
    table = CostTable(SPACE)
    assert round(table.total(SPACE.decode(CHEAP), "macs") / 1e6, 3) == 15.647
    costs = table.totals(list(product(range(5), repeat=6)), "macs")
    assert round(costs.max() / 1e6, 3) == 220.120
    assert int(costs.argmax()) == int("333333", 5), "all 3x3"
    # By hand: a 3x3 or 1x1 edge has 9 C^2 or C^2 MACs per pixel; stem, two reductions and classifier are fixed.
    pixels = {16: 1024, 32: 256, 64: 64}
    fixed = 1024 * 27 * 16 + 640 + sum(pixels[2 * c] * (9 * 2 * c * c + 9 * 4 * c * c + 2 * c * c) for c in (16, 32))
    for ops in ((3,) * 6, (0,) * 6, (2, 3, 1, 4, 2, 0)):
        per_cell = sum({2: 1, 3: 9}.get(op, 0) for op in ops)
        assert table.total(ops, "macs") == fixed + 5 * per_cell * sum(p * c * c for c, p in pixels.items())


@pytest.mark.parametrize("ops", [(3, 2, 1, 0, 4, 3), (2, 3, 3, 1, 1, 4), (4, 2, 1, 2, 1, 1)])
def test_the_network_equals_the_benchmarks(ops: tuple[int, ...], tmp_path: Path) -> None:
    """Same parameter names and shapes, same outputs, same multiply-adds as torch's counter."""
    names = tuple(OPS[i] for i in ops)
    theirs = Network(names).eval()
    with torch.no_grad():
        for tensor in (t for t in theirs.state_dict().values() if t.dim() == 1):
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    raw = SPACE.spec.model_dump(mode="json")
    locked = {f"cells.*.layers.{i}": {"op": [op]} for i, op in enumerate(names)}
    supernet = build(SPACE)
    subnet = supernet.subnet(SPACE.canonical(ops)).eval()
    state = theirs.state_dict()
    assert {n: t.shape for n, t in subnet.state_dict().items()} == {n: t.shape for n, t in state.items()}
    subnet.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(subnet(x), theirs(x), rtol=1e-5, atol=1e-5)
    counter = FlopCounterMode(display=False)
    with counter:
        Network(tuple(op if "conv" in op else "skip_connect" for op in names))(x[:1])
    assert counter.get_total_flops() == 2 * CostTable(SPACE).total(ops, "macs")
    assert space_of(parse_spec(raw | {"overrides": locked}, "locked")).size == 1


@given(st.tuples(*[st.integers(0, 4)] * 6))
def test_strings_parse_and_print(ops: tuple[int, ...]) -> None:
    text = SPACE.notation(ops)
    assert text is not None
    assert SPACE.decode(text) == ops
    assert architecture_cost(SPACE, arch=text)["notation"] == text
    # The edges of a node may be in any order.
    nodes = ["|" + "|".join(reversed(node.strip("|").split("|"))) + "|" for node in text.split("+")]
    assert SPACE.decode("+".join(nodes)) == ops


def test_strings_are_the_benchmarks() -> None:
    assert SPACE.decode(CHEAP) == (4, 2, 1, 2, 1, 1)
    assert SPACE.notation((4, 2, 1, 2, 1, 1)) == CHEAP


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|none~0|+|none~0|none~1|", "got 3 edges of 6"),
        ("|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "each edge once"),
        ("|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "each edge once"),
        ("|no ne~0|+|none~0|none~1|+|none~0|none~1|none~2|", "each edge once"),
        (CHEAP.replace("avg_pool", "max_pool"), "operator 'max_pool_3x3' is no candidate of space 'nasbench201'"),
    ],
)
def test_wrong_strings(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SPACE.decode(text)


def test_a_string_does_not_give_bits() -> None:
    space = load_space("nasbench201-mixed")
    with pytest.raises(SpaceError, match=r"does not set '1<-0\.bits'; give the 14 candidate indices"):
        space.decode(CHEAP)
    assert (space.notation(space.decode(",".join(["0"] * 14))) or "").count("none") == 6
    assert load_space("digits-blocks").notation((0,) * 8) is None


def test_cells_share_their_axes() -> None:
    assert [axis.name for axis in SPACE.axes] == [f"{e}.op" for e in ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")]
    mixed = load_space("nasbench201-mixed")
    names = [axis.name for axis in mixed.axes if axis.kind == "bits"]
    assert names == [f"{a.name.removesuffix('.op')}.bits" for a in SPACE.axes] + [
        "cells.5.downsample.1.bits",
        "cells.11.downsample.1.bits",
    ]
    uniform = mixed.bit_config(mixed.uniform(4, 4)).layers
    assert sum(bits.weight_bits == 4 for bits in uniform.values()) == 15 * 6 + 2 * 3


def test_blocks_that_share_axes_need_the_same_candidates() -> None:
    raw = SPACE.spec.model_dump(mode="json") | {"overrides": {"cells.0.layers.0": {"op": ["none", "skip_connect"]}}}
    with pytest.raises(SpaceError, match=r"'cells.0.layers.0' and 'cells.1.layers.0' read the same axes"):
        space_of(parse_spec(raw, "x"))
