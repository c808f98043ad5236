"""`onnx-packed`: the QCDQ graph with weights stored at their own bit-width.

Weights of 8, 4 and 2 bits are INT8, INT4 and INT2 initializers. Other bit-widths, and mid-rise weights (odd integers,
no zero), are bit planes: bit k of weight n is bit n % 8 of byte n // 8 of plane k. `UnpackBits`, a function inside the
file, unpacks them with standard operators; onnxruntime runs it once, when it loads the file (decision record 0028).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from spos_quant.export.api import Format, exporters, require_quantized_layers
from spos_quant.export.onnx_file import DOMAIN, LAYERS, UNPACK, TensorProducers, finish
from spos_quant.quant.onnx import export_qcdq

OPSET, INT2_OPSET = 21, 25
"""The first opsets with 4-bit and with 2-bit integer types."""
Codes = npt.NDArray[np.int8]


def write_packed(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes the QCDQ graph and packs its weights."""
    require_quantized_layers(model)
    midrise_weights, binary_inputs = export_qcdq(model, example[:1], path, opset=OPSET)
    finish(path, metadata, midrise_weights, binary_inputs)
    packed = _packed(onnx.load(path))
    onnx.checker.check_model(packed, full_check=True)
    onnx.save(packed, path)


exporters.register("onnx-packed")(Format(write_packed, "model-packed.onnx"))


@dataclass(frozen=True)
class _Weight:
    """A quantized weight in a graph."""

    stored: str
    """Name of the initializer with the integers."""
    dequantizer: Any
    codes: Codes
    bits: int


def _packed(model: Any) -> Any:
    graph = model.graph
    packed: dict[str, str] = {}
    has_int2 = False
    for weight in list(_weights(graph)):
        if weight.stored not in packed:
            name, is_int2 = _store(graph, weight)
            packed[weight.stored], has_int2 = name, has_int2 or is_int2
        weight.dequantizer.input[0] = packed[weight.stored]
        del weight.dequantizer.input[2:]  # the zero point, which is 0, the default
    standard = next(item for item in model.opset_import if item.domain == "")
    standard.version = INT2_OPSET if has_int2 else OPSET
    if any(node.op_type == UNPACK for node in graph.node):
        model.functions.append(_unpack_function(standard))
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for([standard]))
    _drop_unused(graph)
    _shorten_names(graph)
    return model


def _weights(graph: Any) -> Iterator[_Weight]:
    """The integer weights of every layer, after the Clip of their quantizer chain."""
    chains = TensorProducers(graph)
    for node in graph.node:
        bits = chains.bits(node.input[1], weight=True) if node.op_type in LAYERS else None
        if bits is None:
            continue
        dequantizer = chains.weight_quantizer(node.input[1])
        stored = dequantizer.input[0]
        clip = chains.producer(stored)
        if clip is not None:
            stored = clip.input[0]
            codes = np.clip(chains.constant(stored), chains.constant(clip.input[1]), chains.constant(clip.input[2]))
        else:
            codes = chains.constant(stored)
        yield _Weight(stored, dequantizer, codes.astype(np.int8), bits)


def _store(graph: Any, weight: _Weight) -> tuple[str, bool]:
    """Adds a packed weight to the graph; returns the tensor name of its integers and whether its type is INT2."""
    name, codes, bits = f"{weight.stored}.packed", weight.codes, weight.bits
    low, high = int(codes.min()), int(codes.max())
    for kind, width, supported in (("INT8", 8, True), ("INT4", 4, True), ("INT2", 2, runs_int2())):
        half = 2 ** (width - 1)
        if bits == width and supported and -half <= low and high < half:
            tensor = TensorProto(name=name, data_type=getattr(TensorProto, kind), dims=codes.shape)
            tensor.raw_data = _pack_bytes(codes.reshape(-1), width)
            graph.initializer.append(tensor)
            return name, kind == "INT2"
    qmin, places = _place_values(codes, bits)
    parts: dict[str, npt.NDArray[Any]] = {
        "planes": _planes((codes.astype(np.int32) - qmin) // places[0], bits),
        "places": places.reshape(-1, 1, 1),
        "lowest": np.array(qmin, np.int32),
        "shape": np.array(codes.shape, np.int64),
    }
    inputs = [f"{name}.{part}" for part in parts]
    for part, array in zip(inputs, parts.values(), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, part))
    graph.node.insert(0, helper.make_node(UNPACK, inputs, [name], domain=DOMAIN))
    graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.INT8, codes.shape))
    return name, False


def _place_values(codes: Codes, bits: int) -> tuple[int, npt.NDArray[np.int32]]:
    """The code with no bit set, and what each bit adds to it; codes of mid-rise weights are odd integers, 2 apart."""
    odd = bool(np.all(codes % 2))
    places = np.array([2**k for k in range(bits)], np.int32) * (2 if odd else 1)
    return (1 - 2**bits if odd else -(2 ** (bits - 1))), places


def _planes(values: npt.NDArray[np.int32], bits: int) -> npt.NDArray[np.uint8]:
    """Packs n unsigned integers into bit planes, uint8 `[bits, ceil(n / 8), 1]`."""
    flat = values.reshape(-1)
    return np.stack([np.packbits(flat >> k & 1, bitorder="little") for k in range(bits)])[:, :, None]


def _pack_bytes(codes: Codes, bits: int) -> bytes:
    """Packs integers of 2, 4 or 8 bits into bytes as ONNX does: the first integer in the least significant bits."""
    per_byte = 8 // bits
    padded = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
    padded[: codes.size] = codes.astype(np.uint8) & (2**bits - 1)
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    return bytes(np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8))


def _unpack_function(standard: Any) -> Any:
    """`(planes, places, lowest, shape) -> integers`: `lowest` plus the place values of the bits that are set."""
    constants: dict[str, npt.NDArray[Any]] = {
        "shifts": np.arange(8, dtype=np.uint8),
        "one": np.array(1, np.uint8),
        "first": np.array([0], np.int64),
        "flat": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in constants.items()
    ]
    nodes += [
        helper.make_node("BitShift", ["planes", "shifts"], ["shifted"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", ["shifted", "one"], ["bits"]),
        helper.make_node("Cast", ["bits"], ["wide"], to=TensorProto.INT32),
        helper.make_node("Mul", ["wide", "places"], ["placed"]),
        helper.make_node("ReduceSum", ["placed", "first"], ["sums"], keepdims=0),
        helper.make_node("Add", ["sums", "lowest"], ["rows"]),
        helper.make_node("Reshape", ["rows", "flat"], ["padded"]),
        helper.make_node("ReduceProd", ["shape"], ["count"], keepdims=1),
        helper.make_node("Slice", ["padded", "first", "count"], ["all"]),
        helper.make_node("Reshape", ["all", "shape"], ["shaped"]),
        helper.make_node("Cast", ["shaped"], ["integers"], to=TensorProto.INT8),
    ]
    inputs = ["planes", "places", "lowest", "shape"]
    return helper.make_function(DOMAIN, UNPACK, inputs, ["integers"], nodes, [standard])


def _drop_unused(graph: Any) -> None:
    """Removes nodes and initializers whose outputs nothing reads."""
    used = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
    nodes = [node for node in graph.node if used & set(node.output)]
    changed = len(nodes) < len(graph.node)
    tensors = [item for item in graph.initializer if item.name in used]
    for field, kept in ((graph.node, nodes), (graph.initializer, tensors)):
        del field[:]
        field.extend(kept)
    if changed:
        _drop_unused(graph)


def _shorten_names(graph: Any) -> None:
    """Replaces tensor names by numbers and removes node names; only layers keep theirs, which name the module."""
    kept = {item.name for item in (*graph.input, *graph.output)}
    names = [item.name for item in graph.initializer] + [name for node in graph.node for name in node.output]
    short = {name: str(i) for i, name in enumerate(name for name in names if name not in kept)}
    for node in graph.node:
        if node.op_type not in LAYERS:
            node.ClearField("name")
        for field in (node.input, node.output):
            field[:] = [short.get(name, name) for name in field]
    for item in (*graph.initializer, *graph.value_info):
        item.name = short.get(item.name, item.name)


@cache
def runs_int2() -> bool:
    """Whether the installed onnx and onnxruntime support INT2. If not, 2 bits become bit planes of the same size."""
    if not hasattr(TensorProto, "INT2") or onnx.defs.onnx_opset_version() < INT2_OPSET:
        return False
    import onnxruntime

    codes = TensorProto(name="c", data_type=TensorProto.INT2, dims=[4], raw_data=b"\xe4")
    scale = numpy_helper.from_array(np.array(1, np.float32), "s")
    node = helper.make_node("DequantizeLinear", ["c", "s"], ["y"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    opset = helper.make_opsetid("", INT2_OPSET)
    model = helper.make_model(helper.make_graph([node], "g", [], [result], [codes, scale]), opset_imports=[opset])
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return bool(np.array_equal(session.run(None, {})[0], [0, 1, -2, -1]))
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions share no public base
        return False
