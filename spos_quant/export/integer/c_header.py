"""Writes the integer graph as a C header: the arrays of every layer, and a comment that lists all operations."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from spos_quant.export.integer.graph import Array, FloatLayer, IntegerGraph, Layer, Op, QuantParams, Table
from spos_quant.export.integer.reference import divisors

_TYPES = {"int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "uint8": "uint8_t", "float32": "float"}
_PER_LINE = 16


def c_header(graph: IntegerGraph) -> str:
    """The text of the header; all numbers are exact, since float32 values are hexadecimal constants."""
    tensor_qparams = graph.tensor_qparams()
    used: set[str] = set()
    parts = [_preamble(graph, tensor_qparams)]
    for op in graph.ops:
        arrays = list(_arrays(op, tensor_qparams))
        if arrays:
            prefix = _identifier(op.name, used)
            parts += [f"/* {op.name}: {type(op).__name__} */", *_defines(op, tensor_qparams, prefix)]
            parts += [_array(f"{prefix}_{name}", values) for name, values in arrays]
    return "\n".join([*parts, "#endif", ""])


def _preamble(graph: IntegerGraph, tensor_qparams: dict[str, QuantParams | None]) -> str:
    lines = [
        "/* An integer network, written by spos-quant.",
        "   A layer computes sum = FACTOR * sum((x - INPUT_ZERO) * weight) + bias in 32 bits. With a multiplier,",
        "   code = clamp(round_half_to_even((float)sum * multiplier) + OUTPUT_ZERO, OUTPUT_LOW, OUTPUT_HIGH) in float;",
        "   with a divisor, (float)sum / divisor replaces the product. A code stands for scale * (code - zero).",
        "   With neither, the result is the real number sum * unit. Operations in order:",
    ]
    names = {tensor: f"t{i}" for i, tensor in enumerate(tensor_qparams)}
    for op in graph.ops:
        qparams = (
            "real" if op.qparams is None else f"scale {float(op.qparams.scale).hex()}, zero {op.qparams.zero_point}"
        )
        reads = ", ".join(names[name] for name in op.inputs)
        lines.append(
            f"   {names[op.output]} = {type(op).__name__}({reads}) of {op.name!r}: {qparams}".replace("*/", "")
        )
    lines += ["*/", "#ifndef SPOS_QUANT_NETWORK_H", "#define SPOS_QUANT_NETWORK_H", "#include <stdint.h>"]
    return "\n".join(lines)


def _arrays(op: Op, tensor_qparams: dict[str, QuantParams | None]) -> Iterator[tuple[str, Array]]:
    if isinstance(op, Layer):
        qparams = tensor_qparams[op.inputs[0]]
        assert qparams is not None
        unit = np.float32(qparams.scale) * op.scale
        yield "weight", op.weight
        yield "bias", op.bias
        yield "unit", unit
        if op.qparams is not None and op.wide:
            yield "divisor", divisors(op, qparams)
        elif op.qparams is not None:
            yield "multiplier", unit / np.float32(op.qparams.scale)
    elif isinstance(op, FloatLayer):
        yield "weight", op.weight
        yield "bias", op.bias
    elif isinstance(op, Table):
        yield "table", op.table


def _defines(op: Op, tensor_qparams: dict[str, QuantParams | None], prefix: str) -> Iterator[str]:
    defines: dict[str, int] = {}
    qparams = tensor_qparams[op.inputs[0]]
    if isinstance(op, Layer):
        defines |= {"FACTOR": op.factor, "GROUPS": op.groups, "WEIGHT_BITS": op.weight_bits or 16}
    if isinstance(op, Layer | FloatLayer):
        for axis, size in zip(("OUT", "IN", "HEIGHT", "WIDTH"), op.weight.shape, strict=False):
            defines[f"KERNEL_{axis}"] = size
    if qparams is not None:
        defines["INPUT_ZERO"] = qparams.zero_point
    if op.qparams is not None:
        low, high = op.qparams.codes(op.limits)
        defines |= {"OUTPUT_ZERO": op.qparams.zero_point, "OUTPUT_LOW": low, "OUTPUT_HIGH": high}
    for name, value in defines.items():
        yield f"#define {prefix.upper()}_{name} ({value})"


def _array(name: str, values: Array) -> str:
    flat = values.ravel()
    text = [float(v).hex() + "f" if flat.dtype == np.float32 else str(int(v)) for v in flat]
    rows = [", ".join(text[i : i + _PER_LINE]) for i in range(0, len(text), _PER_LINE)]
    return f"static const {_TYPES[flat.dtype.name]} {name}[{flat.size}] = {{\n" + ",\n".join(rows) + "\n};"


def _identifier(name: str, used: set[str]) -> str:
    """A C identifier that is unique among layers."""
    wish = "n_" + re.sub(r"\W", "_", name)
    made, count = wish, 1
    while made in used:
        made, count = f"{wish}_{count}", count + 1
    used.add(made)
    return made
