"""The operations of a QCDQ file on real tensors, before they are lowered to integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOVES = ("maxpool", "concat", "slice", "pad", "reshape", "transpose")
"""Kinds of operations that change no value; their inputs and outputs share quantization parameters."""


@dataclass
class Step:
    """One operation on real tensors."""

    kind: str
    name: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class FloatGraph:
    """A network as a list of operations in order of execution."""

    input: str
    shape: tuple[int, ...]
    output: str
    steps: list[Step]

    def users(self, tensor: str) -> list[Step]:
        """The operations that read a tensor."""
        return [step for step in self.steps if tensor in step.inputs]

    def maker(self, tensor: str) -> Step | None:
        """The operation that computes a tensor; None for the images."""
        return next((step for step in self.steps if step.output == tensor), None)
