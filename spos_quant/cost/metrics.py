"""Cost metrics: what one layer contributes, by formula `bitops/1`.

A metric is a small function of a layer's shape and bits, registered by name; its budget option follows from the name.
One multiply-add is one MAC; bias, BatchNorm, pooling and additions count nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from spos_quant.registry import Registry
from spos_quant.space.shapes import LayerShape
from spos_quant.space.spec import Bits

FORMULA = "bitops/1"
FLOAT_BITS = 32

Metric = Callable[[LayerShape, Bits, Bits, bool], int]
"""`(shape, weight_bits, act_bits, counted) -> int`; `counted` is False for layers that the space keeps float."""

metrics: Registry[Metric] = Registry("cost metric", builtin_modules=("spos_quant.cost.metrics",))


@metrics.register("bitops")
def bitops(shape: LayerShape, weight_bits: Bits, act_bits: Bits, counted: bool) -> int:
    """MACs x weight bits x activation bits of searchable and locked layers; a float operand counts 32 bits."""
    return shape.macs * (weight_bits or FLOAT_BITS) * (act_bits or FLOAT_BITS) if counted else 0


@metrics.register("bitops_total")
def bitops_total(shape: LayerShape, weight_bits: Bits, act_bits: Bits, counted: bool) -> int:
    """BitOps with the layers kept float counted as 32 x 32."""
    return bitops(shape, weight_bits, act_bits, True) if counted else shape.macs * FLOAT_BITS * FLOAT_BITS


@metrics.register("macs")
def macs(shape: LayerShape, _weight_bits: Bits, _act_bits: Bits, _counted: bool) -> int:
    """Multiply-adds of all layers."""
    return shape.macs


@metrics.register("float_macs")
def float_macs(shape: LayerShape, _weight_bits: Bits, _act_bits: Bits, counted: bool) -> int:
    """Multiply-adds in layers kept float."""
    return 0 if counted else shape.macs


@metrics.register("params")
def params(shape: LayerShape, _weight_bits: Bits, _act_bits: Bits, _counted: bool) -> int:
    """Weights and biases of convolutions and linear layers; BatchNorm folds away and is not counted."""
    return shape.weights + shape.biases


@metrics.register("weight_bytes")
def weight_bytes(shape: LayerShape, weight_bits: Bits, _act_bits: Bits, _counted: bool) -> int:
    """Bytes of the packed weights, rounded up per layer; float weights take 4 bytes, biases are left out."""
    return -(-shape.weights * (weight_bits or FLOAT_BITS) // 8)


FLOAT_OPERATIONS = frozenset({"macs", "float_macs", "bitops_total"})
"""Metrics that multiply-adds outside convolutions and linear layers add to (as 32 x 32 for bitops_total)."""


def outside_layers(metric: str, other_macs: int) -> int:
    """What multiply-adds outside convolutions and linear layers add to a metric; they are always float."""
    if metric not in FLOAT_OPERATIONS:
        return 0
    return other_macs * (FLOAT_BITS * FLOAT_BITS if metric == "bitops_total" else 1)
