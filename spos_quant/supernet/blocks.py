"""Choice blocks: places in the network that become one of several operators at one of several widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from spos_quant.quant.fused_relu import absorbed, hooked
from spos_quant.quant.static import StaticMaker, Switchable
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.supernet.joins import Branch, Join, residual_relu

Widths = Sequence[int]
"""Inner channels, one number per width candidate."""


def scaled(channels: float, factor: float = 1.0, divisor: int = 2) -> int:
    """`channels` x `factor`, rounded half up to a multiple of `divisor`, at least `divisor`."""
    return max(divisor, floor(channels * factor / divisor + 0.5) * divisor)


@dataclass(frozen=True)
class BlockSpec:
    """What a backbone says of the place where an operator is to sit."""

    inputs: int
    """Channels that the operator reads."""
    outputs: int
    """Channels that it must give."""
    stride: int = 1
    """What it divides height and width by."""
    inner: int | None = None
    """Inner channels at width 1.0, for operators whose own rule does not say them; None is `outputs`."""
    widths: tuple[float, ...] = (1.0,)
    """Factors on the inner channels."""
    signed: bool = False
    """Whether the input may be negative."""
    projection: bool = False
    """Whether the operator must bring a shortcut of its own, `inputs` to `inputs` channels at the same stride."""
    activation: Callable[[], nn.Module] = nn.ReLU
    """Of the layers inside, where the operator leaves the choice to the backbone."""
    norm: Callable[[int], SwitchBatchNorm2d] = SwitchBatchNorm2d
    """Its BatchNorm layers."""
    container: str = "block"
    """What published weights call the list of layers, where the operator has one."""

    def inner_widths(self, channels: int | None = None, divisor: int = 2) -> list[int]:
        """Inner channels for every width factor; `channels` at width 1.0, the block_spec's own where None."""
        nominal = channels or self.inner or self.outputs
        return [scaled(nominal, factor, divisor) for factor in self.widths]

    @property
    def keeps_shape(self) -> bool:
        """Whether what comes out is shaped as what goes in."""
        return self.stride == 1 and self.inputs == self.outputs


class Operator(nn.Module):
    """One candidate of a choice block: layers in a row, some of them with channels that follow the width.

    Args:
        layers: Modules by the names that they have in the plain network (`conv1`, `bn1`, ...). An operator without
            layers is a skip.
        channels: Per switchable layer, by its path inside the operator, its input and output channels for every width
            candidate. Layers that are not named do not change.
        projection: The name among `layers` of the operator's own shortcut, which is no part of the row.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        channels: Mapping[str, tuple[Widths, Widths]] | None = None,
        projection: str | None = None,
    ) -> None:
        super().__init__()
        self.projection = projection
        self.row = tuple(name for name in layers if name != projection)
        for name, layer in layers.items():  # torch refuses a name that is an attribute already
            self.add_module(name, layer)
        self._switched = [(self.get_submodule(path), *widths) for path, widths in (channels or {}).items()]

    def activate_width(self, index: int) -> None:
        """Uses the channels of one width candidate."""
        for layer, inputs, outputs in self._switched:
            if isinstance(layer, SwitchBatchNorm2d):
                layer.activate_channels(outputs[index])
            elif isinstance(layer, SwitchLayer):
                layer.activate_channels(inputs[index], outputs[index])

    def forward(self, x: Tensor) -> Tensor:
        """The layers in order; of an operator without layers the result is its input."""
        main = branch(self, self.row)
        return x if main is None else main(x)


OperatorMaker = Callable[[BlockSpec], Operator]
"""Makes an operator for a place."""


def branch(owner: nn.Module, names: Sequence[str]) -> Branch | None:
    """The named children of a module in a row; None where there are none."""
    if not names:
        return None

    def run(x: Tensor) -> Tensor:
        for name in names:
            layer = owner._modules[name]
            x = x if layer in absorbed else layer(x)  # type: ignore[misc]
        return x

    return run


class ChoiceBlock(Switchable):
    """A choice block: the active operator, joined with what is beside it.

    Args:
        candidates: Operators by registered name.
        downsample: The shortcut that every operator shares; None where it is the identity or the operator's own.
        join: How operator and shortcut meet.
    """

    def __init__(
        self, candidates: Mapping[str, Operator], downsample: nn.Module | None = None, join: Join = residual_relu
    ) -> None:
        super().__init__()
        # Registered first: its name then holds the quantizer that it shares, whatever the operators are.
        self.downsample = downsample
        self.candidates = nn.ModuleDict(candidates)
        self.join = join
        self.op_names = tuple(candidates)
        self.active = self.op_names[0]

    @property
    def operator(self) -> Operator:
        """The active operator."""
        operator = self.candidates[self.active]
        assert isinstance(operator, Operator)
        return operator

    def activate(self, op: int, width: int) -> None:
        """Becomes one operator at one width, by candidate index."""
        self.active = self.op_names[op]
        self.operator.activate_width(width)

    def forward(self, x: Tensor) -> Tensor:
        """The active path on `x`."""
        operator = self.operator
        own = None if operator.projection is None else branch(operator, (operator.projection,))
        return self.join(x, branch(operator, operator.row), own or self.downsample, _reader_behind(self))

    @property
    def first(self) -> nn.Module | None:
        """The layer of the active operator that reads the block's input; None of a skip."""
        return _first(self.operator, self.operator.row)

    def static(self, maker: StaticMaker) -> nn.Module:
        """The plain block of the active path."""
        operator = self.operator
        layers = {name: maker.module(layer) for name, layer in operator.named_children()}
        shortcut = operator.projection
        if self.downsample is not None:
            layers["downsample"] = maker.module(self.downsample)
            shortcut = "downsample"
        return PlainBlock(layers, operator.row, shortcut, self.join).train(self.training)


class PlainBlock(nn.Module):
    """A plain block whose layers are its children under the names of the float network.

    Args:
        layers: All of them, by name.
        row: Names of those that run one after the other.
        shortcut: Name of the shortcut; None for the identity.
        join: How the two meet.
    """

    def __init__(self, layers: Mapping[str, nn.Module], row: Sequence[str], shortcut: str | None, join: Join) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.row, self.shortcut, self.join = tuple(row), shortcut, join

    def forward(self, x: Tensor) -> Tensor:
        """`[n, C, H, W]` to what the block gives."""
        beside = None if self.shortcut is None else branch(self, (self.shortcut,))
        return self.join(x, branch(self, self.row), beside, _reader_behind(self))

    @property
    def first(self) -> nn.Module | None:
        """The layer of the row that reads the block's input; None of a skip."""
        return _first(self, self.row)


Block = ChoiceBlock | PlainBlock
_behind: WeakKeyDictionary[Block, Block] = WeakKeyDictionary()


@contextmanager
def followed(pairs: Iterable[tuple[Block, Block]]) -> Iterator[None]:
    """While open, blocks know the block behind them, so that what they sum can be quantized for it at once.

    Kept beside the modules, not in them, so that a copy, which nobody would put right again, knows nothing. What has
    hooks, which may change a sum in place, stays as it is.

    Args:
        pairs: Blocks, each with the one that is expected to read what it gives.
    """
    added = {block: reader for block, reader in pairs if block not in _behind}
    _behind.update(added)
    try:
        yield
    finally:
        for block in added:
            del _behind[block]


def _reader_behind(block: Block) -> nn.Module | None:
    """The layer that reads what a block gives, where that is known and nothing watches on the way."""
    behind = _behind.get(block)
    first = None if behind is None or hooked(block) or hooked(behind) else behind.first
    return None if first is None or hooked(first) else first


def _first(owner: nn.Module, row: Sequence[str]) -> nn.Module | None:
    layer = owner._modules[row[0]] if row else None
    while isinstance(layer, nn.Sequential):  # lists of layers of published networks
        layer = next(iter(layer), None)
    return layer
