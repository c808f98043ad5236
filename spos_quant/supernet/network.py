"""The structure of a supernet: the builder for backbones, and the name of every layer in the plain network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import nn

from spos_quant.errors import SpaceError
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.resolve import block_axes
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.blocks import Block, BlockSpec, ChoiceBlock, Operator, PlainBlock
from spos_quant.supernet.joins import Join, residual, residual_relu
from spos_quant.supernet.operators import operators

_SUMS = (residual, residual_relu)


class BlockBuilder:
    """Makes the choice blocks of a backbone with the candidates of the search space.

    Args:
        spec: The search space; its `axes` and `overrides` decide the candidates of each block.
    """

    def __init__(self, spec: SpaceSpec) -> None:
        self.spec = spec
        self.own_ops: dict[str, str] = {}
        self.axes: dict[str, str] = {}
        self.units: dict[str, str] = {}
        """Block of the module tree per layer name, in networks without choice blocks."""
        self.float_ends: tuple[str, ...] = ()
        """Those of `first` and `last` that stay float because they cannot be quantized."""
        self.own_start = False
        """Whether the network initializes its own weights, as published models do."""

    def unit(self, place: Place) -> str | None:
        """The layers of a unit share bits if `bits_per` is `block`. It is the block's axis name, or from `units`."""
        return self.units.get(place.name) if place.block is None else self.axes[place.block]

    def block(
        self,
        name: str,
        block_spec: BlockSpec,
        *,
        own_op: str,
        downsample: nn.Module | None = None,
        join: Join = residual_relu,
        axis: str | None = None,
    ) -> ChoiceBlock:
        """A choice block.

        Args:
            name: Its module name in the plain network.
            block_spec: The block specification; the widths are filled in.
            own_op: The backbone's own operator, used if the space names none.
            downsample: The shortcut; None for the identity, or if operators provide their own.
            join: Combines operator and shortcut.
            axis: Blocks with the same axis name read the same axes, and share bits if `bits_per` is `block`; None is
                `name`.

        Raises:
            ConfigError: an operator is not registered.
            SpaceError: the shape changes without a shortcut, or an operator does not fit this block.
        """
        if join in _SUMS and downsample is None and not block_spec.keeps_shape:
            raise SpaceError(f"block {name!r} changes the shape and needs a shortcut")
        axes = block_axes(self.spec, name)
        self.own_ops[name] = own_op
        self.axes[name] = axis or name
        block_spec = replace(block_spec, widths=axes.width or (1.0,))
        candidates = {op: operators[op](block_spec) for op in axes.op or (own_op,)}
        for op, made in candidates.items():
            if block_spec.projection and made.projection is None:
                raise SpaceError(
                    f"{self.spec.name}: block {name!r} needs operators with a shortcut of their own, which {op!r} has "
                    "not; override the operators of this block"
                )
            if not (made.row or block_spec.keeps_shape or downsample is not None):
                raise SpaceError(
                    f"{self.spec.name}: block {name!r} changes the shape, so {op!r} cannot stand there; override the "
                    "operators of this block"
                )
        return ChoiceBlock(candidates, downsample, join)


Backbone = Callable[[SpaceSpec, BlockBuilder], nn.Module]
"""`(spec, builder) -> module` whose layers are `SwitchLayer`s and whose blocks come from the builder."""


@dataclass(frozen=True)
class Place:
    """A switchable layer and its names."""

    name: str
    """Module name in the plain network."""
    block: str | None
    op: str | None
    """The operator that it belongs to; None for shortcuts and layers outside of blocks."""
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


def layers_with_following_norm(body: nn.Module) -> Iterator[tuple[SwitchLayer, SwitchBatchNorm2d]]:
    """Every layer whose next registered sibling is a BatchNorm, which reads its output in the networks here."""
    for module in body.modules():
        for layer, norm in pairwise(module.children()):
            if isinstance(layer, SwitchLayer) and isinstance(norm, SwitchBatchNorm2d):
                yield layer, norm


def relus_in_front(model: nn.Module) -> Iterator[tuple[nn.ReLU, nn.Module]]:
    """Every ReLU of a supernet's operators, or of plain blocks, with the only module that reads its output.

    Modules that are registered several times are left out.
    """
    uses = Counter(id(child) for module in model.modules() for child in module._modules.values())
    for module in model.modules():
        if isinstance(module, Operator | PlainBlock):
            row = [module.get_submodule(name) for name in module.row]
            for relu, reader in pairwise(row):
                if type(relu) is nn.ReLU and uses[id(relu)] == uses[id(reader)] == 1:
                    yield relu, reader


def blocks_in_a_row(model: nn.Module) -> Iterator[tuple[Block, Block]]:
    """Every block with the next registered block, which reads its output in most networks."""
    yield from pairwise(module for module in model.modules() if isinstance(module, Block))


def per_bits(name: str) -> bool:
    """Whether a supernet parameter belongs to one bit-width, so that no float network has it."""
    return ".scaling_impl." in name or ".by_bits." in name


def plain_name(path: str) -> str:
    """The name of a supernet parameter in the plain network, which leaves out the operator."""
    head, found, tail = path.partition(".candidates.")
    return f"{head}.{tail.partition('.')[2]}" if found else path
