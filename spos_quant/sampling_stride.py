"""Which of many values to look at, where all are too many."""

from __future__ import annotations

from math import gcd


def stride(count: int, wanted: int) -> int:
    """A step that takes about `wanted` of `count` values of a tensor in a row, from everywhere in it.

    It has no divisor in common with their number, and so with no side of the tensor: a step of whole rows sees nothing
    but one column, and at the border of a picture activations are small.
    """
    step = max(1, count // wanted)
    while gcd(step, count) > 1:
        step += 1
    return step
