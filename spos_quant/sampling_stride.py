"""The stride for sampling values of a large tensor."""

from __future__ import annotations

from math import gcd


def stride(count: int, wanted: int) -> int:
    """A stride that takes about `wanted` of the `count` values of a flattened tensor, spread over the whole tensor.

    It is coprime to `count`, and so to every dimension of the tensor. A stride of whole rows would take values of one
    column only, and activations at the border of an image are small.
    """
    found = max(1, count // wanted)
    while gcd(found, count) > 1:
        found += 1
    return found
