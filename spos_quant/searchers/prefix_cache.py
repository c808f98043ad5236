"""Activations behind the blocks that two candidates in a row have in common, so that the second need not make them.

A candidate that agrees with the one before it in its first blocks gives the same activations there, for the same
images, and has the same BatchNorm statistics in them. Nothing is rounded anew: scores are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from spos_quant.space.search_space import Architecture, Read, SearchSpace
from spos_quant.supernet.blocks import ChoiceBlock
from spos_quant.supernet.network import named_blocks
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.evaluation import to_evaluation

Item = TypeVar("Item")
Pass = tuple[str, int]
"""What a batch is for, and its number."""


class PrefixCache:
    """The activations of one candidate behind its choice blocks, for all batches that it was judged on.

    Blocks count as far as each gets what the one before it gives, and as nobody else reads that: a network is tried
    with a few images before anything is left out.

    Args:
        supernet: Whose candidates are judged; nothing else may run it meanwhile.
        images: A few images `[n, C, H, W]` to try.
        limit: Bytes of activations per image; behind every second, fourth, ... block where all would be too many.
    """

    def __init__(self, supernet: Supernet, images: Tensor, limit: int) -> None:
        blocks = list(named_blocks(supernet.body).values())
        self.rest, axes = _axes(supernet.space)
        self.start = 0
        """Blocks of the candidate at hand that need not run."""
        self.at: Pass = ("", 0)
        self.kept: dict[Pass, dict[int, Tensor]] = {}
        """Of every pass, what was given behind so many blocks."""
        self.last: Architecture | None = None
        to_evaluation(supernet)
        chain = _chain(supernet, blocks, images)
        self.blocks = [blocks[index] for index in chain]
        self.axes = [axes[index] for index in chain]
        self.cuts: Sequence[int] = range(1, len(chain) + 1)
        if chain:
            self._try(supernet, images, limit)

    def _try(self, supernet: Supernet, images: Tensor, limit: int) -> None:
        """Leaves out what does not come to the same, and what does not fit."""
        with torch.no_grad(), self.candidate(supernet.architecture):
            self.at = ("try", 0)
            whole = supernet(images)
            sizes = {cut: y.numel() * y.element_size() // len(images) for cut, y in self.kept["try", 0].items()}
            self.start = self.cuts[-1]
            try:
                same = torch.equal(supernet(images), whole)
            except RuntimeError:  # shapes that do not fit: somebody else reads what a block gives
                same = False
        self.kept.clear()
        self.last = None
        while same and sum(sizes[cut] for cut in self.cuts) > limit and self.cuts:
            self.cuts = self.cuts[1::2]
        if not same:
            self.cuts = ()

    @contextmanager
    def candidate(self, architecture: Architecture) -> Iterator[None]:
        """While open, passes of this candidate start where it first differs from the last one that was finished."""
        self.start = self._shared(architecture)
        self.last = None
        for number, block in enumerate(self.blocks, 1):
            block.__dict__["forward"] = self._step(number, block)
        try:
            yield
            self.last = architecture
        finally:
            for block in self.blocks:
                del block.__dict__["forward"]

    def passes(self, what: str, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches themselves, each announced before it is given: always the same ones for the same purpose."""
        for number, item in enumerate(batches):
            self.at = what, number
            yield item

    def _shared(self, architecture: Architecture) -> int:
        """Behind so many blocks activations are there that are this candidate's too."""
        if self.last is None or any(self.last[axis] != architecture[axis] for axis in self.rest):
            return 0
        same = 0
        for axes in self.axes:
            if any(self.last[axis] != architecture[axis] for axis in axes):
                break
            same += 1
        return max((cut for cut in self.cuts if cut <= same), default=0)

    def _step(self, number: int, block: ChoiceBlock) -> Callable[[Tensor], Tensor]:
        """What a block does in its forward pass."""

        def forward(x: Tensor) -> Tensor:
            if number < self.start:
                return x  # for the next block, which does not read it
            kept = self.kept.setdefault(self.at, {})
            if number == self.start:
                return kept[number]
            y = type(block).forward(block, x)
            if number in self.cuts:
                kept[number] = y
            return y

        return forward


def _axes(space: SearchSpace) -> tuple[set[int], list[set[int]]]:
    """The axes that layers outside of blocks read, and those of every block and its layers."""

    def read(*places: Read) -> set[int]:
        return {place.axis for place in places if place.axis is not None}

    rest: set[int] = set()
    blocks = [read(block.op, block.width) for block in space.blocks]
    for layer in space.layers:
        (rest if layer.block is None else blocks[layer.block]).update(read(layer.weight, layer.act))
    return rest, blocks


def _chain(supernet: Supernet, blocks: Sequence[ChoiceBlock], images: Tensor) -> list[int]:
    """The blocks, by index, that run first and one after the other, each reading what the one before it gives."""
    seen: list[tuple[int, Tensor, Tensor]] = []
    handles = [
        block.register_forward_hook(lambda _, given, made, index=index: seen.append((index, given[0], made)))
        for index, block in enumerate(blocks)
    ]
    try:
        with torch.no_grad():
            supernet(images)
    finally:
        for handle in handles:
            handle.remove()
    chain = [seen[0][0]] if seen else []
    for (_, _, made), (index, given, _) in pairwise(seen):
        if given is not made or index in chain:
            break
        chain.append(index)
    return chain
