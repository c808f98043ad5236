"""A cache of activations after the first blocks that two consecutive candidates have in common.

A candidate that agrees with the previous one in its first blocks has the same activations and BatchNorm statistics
there, for the same images. The cached activations are exact: scores are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from spos_quant.space.search_space import Architecture, AxisReference, SearchSpace
from spos_quant.supernet.blocks import ChoiceBlock
from spos_quant.supernet.network import named_blocks
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.evaluation import ensure_eval

Item = TypeVar("Item")
Pass = tuple[str, int]
"""The purpose of a batch (`recalibrate` or `score`), and its index."""


class PrefixCache:
    """The activations of the last candidate after its choice blocks, for all batches that it was evaluated on.

    Covers the leading blocks that form a chain: each block reads the output of the previous one, and no other module
    reads it. The constructor verifies on a few images that skipping these blocks leaves the output unchanged.

    Args:
        supernet: The supernet whose candidates are evaluated. Nothing else may run it meanwhile.
        images: A few images `[n, C, H, W]` for the verification.
        limit: Bytes of activations per image. If all blocks take more, only every second, fourth, ... block is cached.
    """

    def __init__(self, supernet: Supernet, images: Tensor, limit: int) -> None:
        blocks = list(named_blocks(supernet.body).values())
        self.rest, axes = _axes(supernet.space)
        self.start = 0
        """Number of leading blocks of the current candidate that are skipped."""
        self.at: Pass = ("", 0)
        self.kept: dict[Pass, dict[int, Tensor]] = {}
        """Per pass: number of blocks -> the output after so many blocks."""
        self.last: Architecture | None = None
        ensure_eval(supernet)
        chain = _chain(supernet, blocks, images)
        self.blocks = [blocks[index] for index in chain]
        self.axes = [axes[index] for index in chain]
        self.cuts: Sequence[int] = range(1, len(chain) + 1)
        if chain:
            self._select_cuts(supernet, images, limit)

    def _select_cuts(self, supernet: Supernet, images: Tensor, limit: int) -> None:
        """Drops all cuts if skipping blocks changes the output, and otherwise enough of them to respect `limit`."""
        with torch.no_grad(), self.candidate(supernet.architecture):
            self.at = ("try", 0)
            whole = supernet(images)
            sizes = {cut: y.numel() * y.element_size() // len(images) for cut, y in self.kept["try", 0].items()}
            self.start = self.cuts[-1]
            try:
                same = torch.equal(supernet(images), whole)
            except RuntimeError:  # shape mismatch: another module reads the output of a block
                same = False
        self.kept.clear()
        self.last = None
        while same and sum(sizes[cut] for cut in self.cuts) > limit and self.cuts:
            self.cuts = self.cuts[1::2]
        if not same:
            self.cuts = ()

    @contextmanager
    def candidate(self, architecture: Architecture) -> Iterator[None]:
        """While open, forward passes skip the leading blocks that the candidate shares with the last completed one."""
        self.start = self._shared(architecture)
        self.last = None
        for number, block in enumerate(self.blocks, 1):
            block.__dict__["forward"] = self._forward(number, block)
        try:
            yield
            self.last = architecture
        finally:
            for block in self.blocks:
                del block.__dict__["forward"]

    def passes(self, purpose: str, batches: Iterable[Item]) -> Iterator[Item]:
        """Yields the batches and records which one is current. A purpose must have the same batches every time."""
        for number, item in enumerate(batches):
            self.at = purpose, number
            yield item

    def _shared(self, architecture: Architecture) -> int:
        """Number of leading blocks after which cached activations are valid for this candidate."""
        if self.last is None or any(self.last[axis] != architecture[axis] for axis in self.rest):
            return 0
        same = 0
        for axes in self.axes:
            if any(self.last[axis] != architecture[axis] for axis in axes):
                break
            same += 1
        return max((cut for cut in self.cuts if cut <= same), default=0)

    def _forward(self, number: int, block: ChoiceBlock) -> Callable[[Tensor], Tensor]:
        """The forward function of a block while a candidate is open."""

        def forward(x: Tensor) -> Tensor:
            if number < self.start:
                return x  # ignored by the next block
            kept = self.kept.setdefault(self.at, {})
            if number == self.start:
                return kept[number]
            y = type(block).forward(block, x)
            if number in self.cuts:
                kept[number] = y
            return y

        return forward


def _axes(space: SearchSpace) -> tuple[set[int], list[set[int]]]:
    """The axes read by layers outside of blocks, and per block the axes read by it and its layers."""

    def axes_of(*references: AxisReference) -> set[int]:
        return {reference.axis for reference in references if reference.axis is not None}

    rest: set[int] = set()
    blocks = [axes_of(block.op, block.width) for block in space.blocks]
    for layer in space.layers:
        (rest if layer.block is None else blocks[layer.block]).update(axes_of(layer.weight, layer.act))
    return rest, blocks


def _chain(supernet: Supernet, blocks: Sequence[ChoiceBlock], images: Tensor) -> list[int]:
    """Indices of the leading blocks in execution order, each of which reads the output of the previous one."""
    seen: list[tuple[int, Tensor, Tensor]] = []
    handles = [
        block.register_forward_hook(lambda _, inputs, output, index=index: seen.append((index, inputs[0], output)))
        for index, block in enumerate(blocks)
    ]
    try:
        with torch.no_grad():
            supernet(images)
    finally:
        for handle in handles:
            handle.remove()
    chain = [seen[0][0]] if seen else []
    for (_, _, output), (index, x, _) in pairwise(seen):
        if x is not output or index in chain:
            break
        chain.append(index)
    return chain
