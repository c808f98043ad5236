"""Test networks with all kinds of layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Everything(nn.Module):
    """Every kind of layer: groups, dilation, several padding modes, a transposed convolution, a module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.audio = nn.Conv1d(4, 6, 5, padding=2, padding_mode="circular")
        self.stem = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, groups=4), Block(8, dilation=2), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.same = nn.Conv2d(6, 4, 3, padding="same")
        self.twice = nn.Linear(4, 4)
        self.head = nn.Linear(4 + 6, 5)

    def forward(self, x: Tensor, sound: Tensor) -> Tensor:
        h = self.same(self.up(self.blocks(self.norm(self.stem(x))))).mean((2, 3))
        h = self.twice(self.twice(h).relu())
        return self.head(torch.cat((h, self.audio(sound).mean(2)), 1))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, c: int, **options: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=options.get("dilation", 1), **options)
        self.conv2 = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Tied(nn.Module):
    """An embedding that shares its weight with the last layer, and two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.b(self.a(self.embed(words)).relu()).mean(1))  # type: ignore[no-any-return]


def everything() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = Everything()
    inputs = torch.randn(4, 3, 8, 8), torch.randn(4, 4, 20)
    with torch.no_grad():
        model.train()(*inputs)
    return model.eval(), inputs


def mlp() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(5, 7)
