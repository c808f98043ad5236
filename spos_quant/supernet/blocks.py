"""Choice blocks: blocks of a network that can be one of several operators at one of several widths."""

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
    """What a backbone requires of the operators of one block."""

    inputs: int
    """Input channels."""
    outputs: int
    """Output channels."""
    stride: int = 1
    """Factor by which the operator divides height and width."""
    inner: int | None = None
    """Inner channels at width 1.0, for operators without their own rule; None is `outputs`."""
    widths: tuple[float, ...] = (1.0,)
    """Factors on the inner channels."""
    signed: bool = False
    """Whether the input may be negative."""
    projection: bool = False
    """Whether the operator must provide its own shortcut, `inputs` to `inputs` channels at the same stride."""
    activation: Callable[[], nn.Module] = nn.ReLU
    """Activation of the inner layers, if the operator leaves the choice to the backbone."""
    norm: Callable[[int], SwitchBatchNorm2d] = SwitchBatchNorm2d
    """Makes the BatchNorm layers."""
    container: str = "block"
    """Name of the operator's list of layers in published weights, if it has one."""

    def inner_widths(self, channels: int | None = None, divisor: int = 2) -> list[int]:
        """Inner channels per width factor; at width 1.0 `channels`, or the channels of this specification if None."""
        nominal = channels or self.inner or self.outputs
        return [scaled(nominal, factor, divisor) for factor in self.widths]

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have the same shape."""
        return self.stride == 1 and self.inputs == self.outputs


class Operator(nn.Module):
    """One candidate of a choice block: a sequence of layers, some of them with channels that follow the width.

    Args:
        layers: Modules by their names in the plain network (`conv1`, `bn1`, ...). An operator without layers is a skip.
        channels: Input and output channels per width candidate, by the path of a switchable layer inside the operator.
            Other layers do not change.
        projection: The name in `layers` of the operator's own shortcut, which is not part of the sequence.
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
        """Runs the layers in order; without layers the output is the input."""
        main = branch(self, self.row)
        return x if main is None else main(x)


OperatorMaker = Callable[[BlockSpec], Operator]
"""Makes an operator for a block specification."""


def branch(owner: nn.Module, names: Sequence[str]) -> Branch | None:
    """The named children of a module as one function, in sequence; None if there are none."""
    if not names:
        return None

    def run(x: Tensor) -> Tensor:
        for name in names:
            layer = owner._modules[name]
            x = x if layer in absorbed else layer(x)  # type: ignore[misc]
        return x

    return run


class ChoiceBlock(Switchable):
    """A choice block: the active operator, joined with the shortcut.

    Args:
        candidates: Operators by registered name.
        downsample: The shortcut that all operators share; None for the identity or an operator's own shortcut.
        join: Combines operator and shortcut.
    """

    def __init__(
        self, candidates: Mapping[str, Operator], downsample: nn.Module | None = None, join: Join = residual_relu
    ) -> None:
        super().__init__()
        # Registered first, so that a quantizer that it shares is named after it, whatever the operators are.
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
        """Activates one operator at one width, by candidate index."""
        self.active = self.op_names[op]
        self.operator.activate_width(width)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the active path for `x` `[N, C, H, W]`."""
        operator = self.operator
        own = None if operator.projection is None else branch(operator, (operator.projection,))
        return self.join(x, branch(operator, operator.row), own or self.downsample, _reader_behind(self))

    @property
    def first(self) -> nn.Module | None:
        """The layer of the active operator that reads the block's input; None for a skip."""
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
    """A plain block whose children have the layer names of the float network.

    Args:
        layers: All layers, by name.
        row: Names of the layers that run in sequence.
        shortcut: Name of the shortcut; None for the identity.
        join: Combines the sequence and the shortcut.
    """

    def __init__(self, layers: Mapping[str, nn.Module], row: Sequence[str], shortcut: str | None, join: Join) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.row, self.shortcut, self.join = tuple(row), shortcut, join

    def forward(self, x: Tensor) -> Tensor:
        """The output of the block for `x` `[N, C, H, W]`."""
        beside = None if self.shortcut is None else branch(self, (self.shortcut,))
        return self.join(x, branch(self, self.row), beside, _reader_behind(self))

    @property
    def first(self) -> nn.Module | None:
        """The layer of the sequence that reads the block's input; None for a skip."""
        return _first(self, self.row)


Block = ChoiceBlock | PlainBlock
_behind: WeakKeyDictionary[Block, Block] = WeakKeyDictionary()


@contextmanager
def next_block_known(pairs: Iterable[tuple[Block, Block]]) -> Iterator[None]:
    """Tells blocks which block follows while open, so that a residual sum is quantized for it in the same kernel.

    Stored outside of the modules, so that copies, which nothing would reset, are not affected. Modules with hooks,
    which may change a sum in place, are not changed.

    Args:
        pairs: Blocks, each with the block that is expected to read its output.
    """
    added = {block: reader for block, reader in pairs if block not in _behind}
    _behind.update(added)
    try:
        yield
    finally:
        for block in added:
            del _behind[block]


def _reader_behind(block: Block) -> nn.Module | None:
    """The layer that reads the output of a block, if it is known and no module in between has hooks."""
    behind = _behind.get(block)
    first = None if behind is None or hooked(block) or hooked(behind) else behind.first
    return None if first is None or hooked(first) else first


def _first(owner: nn.Module, row: Sequence[str]) -> nn.Module | None:
    layer = owner._modules[row[0]] if row else None
    while isinstance(layer, nn.Sequential):  # published networks nest layers in lists
        layer = next(iter(layer), None)
    return layer
