"""A network as a list of steps on real tensors: what a QCDQ file says, before it is given integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOVES = ("maxpool", "concat", "slice", "pad", "reshape", "transpose")
"""Kinds that change no value, so that what goes in and what comes out have one qparams."""


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
    """A network as steps in order."""

    input: str
    shape: tuple[int, ...]
    output: str
    steps: list[Step]

    def users(self, tensor: str) -> list[Step]:
        """The steps that read a tensor."""
        return [step for step in self.steps if tensor in step.inputs]

    def maker(self, tensor: str) -> Step | None:
        """The step that makes a tensor; None for the images."""
        return next((step for step in self.steps if step.output == tensor), None)
