"""The structure of a supernet: what backbones build with, and what every layer in it is called in the plain network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from spos_quant.errors import SpaceError
from spos_quant.quant.switch import SwitchLayer
from spos_quant.space.resolve import block_axes
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.blocks import ChoiceBlock
from spos_quant.supernet.operators import operators


class BlockBuilder:
    """Makes the choice blocks of a backbone with the candidates that the search space gives them.

    Args:
        spec: The search space; its `axes` and `overrides` decide the candidates of each block.
    """

    def __init__(self, spec: SpaceSpec) -> None:
        self.spec = spec
        self.own_ops: dict[str, str] = {}

    def block(
        self, name: str, inputs: int, outputs: int, stride: int, *, own_op: str, downsample: nn.Module | None = None
    ) -> ChoiceBlock:
        """A residual choice block.

        Args:
            name: Its module name in the plain network.
            inputs: Input channels.
            outputs: Output channels.
            stride: Of the block as a whole.
            own_op: The backbone's own operator, used where the space names none.
            downsample: The shortcut; None for the identity.

        Raises:
            ConfigError: an operator that is not registered.
            SpaceError: a block between different shapes without a shortcut.
        """
        if downsample is None and (stride != 1 or inputs != outputs):
            raise SpaceError(f"block {name!r} changes the shape and needs a shortcut")
        axes = block_axes(self.spec, name)
        self.own_ops[name] = own_op
        widths = axes.width or (1.0,)
        ops = axes.op or (own_op,)
        return ChoiceBlock({op: operators[op](inputs, outputs, stride, widths) for op in ops}, downsample)


Backbone = Callable[[SpaceSpec, BlockBuilder], nn.Module]
"""`(spec, builder) -> module` whose layers are `SwitchLayer`s and whose blocks come from the builder."""


@dataclass(frozen=True)
class Place:
    """A switchable layer and what it is called."""

    name: str
    """Module name in the plain network."""
    block: str | None
    op: str | None
    """The operator that it belongs to; None for shortcuts and layers outside blocks."""
    layer: SwitchLayer


def places(body: nn.Module) -> Iterator[Place]:
    """Every switchable layer of a supernet's body, in order of registration."""
    blocks = named_blocks(body)
    for path, module in body.named_modules():
        if not isinstance(module, SwitchLayer):
            continue
        block = next((name for name in blocks if path.startswith(name + ".")), None)
        if block is None:
            yield Place(path, None, None, module)
            continue
        first, *rest = path.removeprefix(block + ".").split(".")
        if first == "candidates":
            yield Place(".".join((block, *rest[1:])), block, rest[0], module)
        else:
            yield Place(".".join((block, first, *rest)), block, None, module)


def named_blocks(body: nn.Module) -> dict[str, ChoiceBlock]:
    """The choice blocks of a body by name, in order."""
    return {name: module for name, module in body.named_modules() if isinstance(module, ChoiceBlock)}


def plain_name(path: str) -> str:
    """The plain network's name of a supernet's parameter: the operator that it sits in is left out."""
    head, found, tail = path.partition(".candidates.")
    return f"{head}.{tail.partition('.')[2]}" if found else path
