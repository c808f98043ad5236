"""Layers of operators and backbones, in addition to `SwitchLayer` and `SwitchBatchNorm2d`."""

from __future__ import annotations

from torch import Tensor, nn

from spos_quant.quant.switch import SwitchLayer


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    *,
    signed: bool = False,
    bias: bool = False,
) -> SwitchLayer:
    """A switchable convolution that keeps height and width at stride 1; `signed`: its input may be negative."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
    return SwitchLayer(layer, signed=signed)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: `x * hardsigmoid(fc2(relu(fc1(mean(x)))))` (arXiv 1709.01507, 1905.02244).

    Args:
        channels: Input channels.
        squeezed: Channels between `fc1` and `fc2`.
        signed: Whether the input may be negative.
    """

    def __init__(self, channels: int, squeezed: int, *, signed: bool) -> None:
        super().__init__()
        self.fc1 = conv(channels, squeezed, 1, signed=signed, bias=True)
        self.fc2 = conv(squeezed, channels, 1, bias=True)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, H, W]` to the same shape."""
        weights: Tensor = self.gate(self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()))
        return x * weights


class Zero(nn.Module):
    """Zeros in the shape of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` zeros."""
        return x * 0.0
