"""Choice blocks: places in the network that become one of several operators at one of several widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor

from torch import Tensor, nn

from spos_quant.quant.static import StaticMaker
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer

Widths = Sequence[int]
"""Inner channels, one number per width candidate."""


def scaled(channels: int, factor: float, divisor: int = 2) -> int:
    """`channels` x `factor`, rounded half up to a multiple of `divisor`, at least `divisor`."""
    return max(divisor, floor(channels * factor / divisor + 0.5) * divisor)


class Operator(nn.Module):
    """One candidate of a choice block: layers in a row, some of them with channels that follow the width.

    Args:
        layers: Modules by the names that they have in the plain network (`conv1`, `bn1`, ...).
        channels: Per switchable layer, its input and output channels for every width candidate. Layers that are not
            named do not change. An operator without layers is a skip.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], channels: Mapping[str, tuple[Widths, Widths]] | None = None
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._channels = dict(channels or {})

    def activate_width(self, index: int) -> None:
        """Uses the channels of one width candidate."""
        for name, (inner_in, inner_out) in self._channels.items():
            layer = self._modules[name]
            if isinstance(layer, SwitchBatchNorm2d):
                layer.activate_channels(inner_out[index])
            elif isinstance(layer, SwitchLayer):
                layer.activate_channels(inner_in[index], inner_out[index])

    def forward(self, x: Tensor) -> Tensor:
        """The layers in order; of an operator without layers the result is its input."""
        for layer in self._modules.values():
            assert layer is not None
            x = layer(x)
        return x


OperatorMaker = Callable[[int, int, int, Sequence[float]], Operator]
"""`(in_channels, out_channels, stride, width factors) -> operator`."""


class ChoiceBlock(nn.Module):
    """A residual choice block: `activation(operator(x) + downsample(x))`.

    The shortcut is registered and runs first, so that a convolution there owns the quantizer of the tensor that it
    shares with whichever operator is active.

    Args:
        candidates: Operators by registered name.
        downsample: The shortcut; None where it is the identity.
    """

    def __init__(self, candidates: Mapping[str, Operator], downsample: nn.Module | None) -> None:
        super().__init__()
        self.downsample = downsample
        self.candidates = nn.ModuleDict(candidates)
        self.op_names = tuple(candidates)
        self.active = self.op_names[0]

    def activate(self, op: int, width: int) -> None:
        """Becomes one operator at one width, by candidate index."""
        self.active = self.op_names[op]
        operator = self.candidates[self.active]
        assert isinstance(operator, Operator)
        operator.activate_width(width)

    def forward(self, x: Tensor) -> Tensor:
        """The active path on `x`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        operator = self.candidates[self.active]
        if not operator._modules:
            return shortcut.relu()
        total: Tensor = operator(x) + shortcut
        return total.relu()

    def static(self, maker: StaticMaker) -> nn.Module:
        """The plain block of the active path."""
        downsample = None if self.downsample is None else maker.module(self.downsample)
        main = {name: maker.module(layer) for name, layer in self.candidates[self.active].named_children()}
        return ResidualBlock(main, downsample).train(self.training)


class ResidualBlock(nn.Module):
    """A plain residual block whose layers are its children under the names of the float network."""

    def __init__(self, main: Mapping[str, nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        for name, layer in main.items():
            self.add_module(name, layer)
        self.main = tuple(main)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """`relu(main(x) + downsample(x))`; without a main branch the shortcut alone."""
        shortcut = x if self.downsample is None else self.downsample(x)
        if not self.main:
            return shortcut.relu()
        y = x
        for name in self.main:
            y = self._modules[name](y)  # type: ignore[misc]
        total: Tensor = y + shortcut
        return total.relu()
