"""Finishes ONNX files, reads their metadata, and measures their cost from the graph alone. Imports no torch."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from spos_quant.cost.rows import LayerRow, summary
from spos_quant.errors import ExportError
from spos_quant.run_dir import check
from spos_quant.space.shapes import LayerShape

METADATA_KEY = "spos_quant"
LAYERS = {"Conv": "Conv2d", "Gemm": "Linear", "MatMul": "Linear"}
"""Operators with a weight -> kind of layer."""
_INTEGER_LAYERS = {"QLinearConv": "Conv2d", "QGemm": "Linear"}
_INTEGER_MOVES = ("MaxPool", "Concat", "Slice", "Pad", "Reshape", "Transpose", "Flatten", "Identity")
"""Operators of `onnx-int8` that move codes and leave their values unchanged."""
STANDALONE_BATCH_NORM = "BatchNormalization"
"""Scope of a convolution in `onnx-int8` that implements a BatchNorm that no layer could absorb."""
DOMAIN, UNPACK = "spos_quant", "UnpackBits"
"""The function in `onnx-packed` files that unpacks bit planes into integers."""
QONNX_DOMAIN = "qonnx.custom_op.general"
_ODD = {-3, -1, 1, 3}
"""Codes of mid-rise weights, which have no Clip: -1 and 1 are 1 bit, all four are 2 bits."""
_NARROW = {onnx.TensorProto.INT4: 4, getattr(onnx.TensorProto, "INT2", -1): 2}
_NO_CHANGE = ("Identity", "Flatten", "Reshape")
"""Operators that change no value."""


def finish(
    path: Path,
    metadata: Mapping[str, Any],
    midrise_weights: Set[str] = frozenset(),
    binary_inputs: Set[str] = frozenset(),
) -> None:
    """Completes an exported QCDQ file, so that its Clips and types give the true bit-widths.

    Args:
        path: The file to rewrite.
        metadata: JSON-serializable values to store in it.
        midrise_weights: Names of layers with mid-rise weights.
        binary_inputs: Names of layers with 1-bit inputs.
    """
    model = onnx.load(path)
    _fix_clips(model.graph, midrise_weights, binary_inputs)
    _prevent_rounding(model.graph)
    complete(model, metadata, path)


def complete(model: Any, metadata: Mapping[str, Any], path: Path) -> None:
    """Drops unused initializers and initializers among the inputs, adds the metadata, and writes the file."""
    graph = model.graph
    constants = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 8)
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(metadata, sort_keys=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in a file of spos_quant: preprocessing, class names, bit configuration.

    Raises:
        ExportError: the file does not exist, is not ONNX, or was not written by spos_quant.
    """
    found = _metadata(read_onnx(path))
    if not found:
        raise ExportError(
            f"{path} was not written by spos-quant: it says nothing of preprocessing and classes; "
            "export it with `spos-quant export`"
        )
    return found


def bytes_by_type(path: Path) -> dict[str, int]:
    """Bytes of a file by tensor data type: `INT4`, `FLOAT`, ..., and `graph` for all other bytes.

    Raises:
        ExportError: the file is not ONNX.
    """
    found: Counter[str] = Counter()
    graph = read_onnx(path).graph
    constants = [attribute.t for node in graph.node if node.op_type == "Constant" for attribute in node.attribute]
    for tensor in (*graph.initializer, *constants):
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        found[name] += len(tensor.raw_data) or tensor.ByteSize()
    return {**dict(sorted(found.items())), "graph": path.stat().st_size - found.total()}


def _metadata(model: Any) -> dict[str, Any]:
    """The metadata that spos_quant wrote; empty if it is missing or damaged."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            with suppress(ValueError, RecursionError):
                found = json.loads(entry.value)
                return found if isinstance(found, dict) else {}
    return {}


def read_onnx(path: Path) -> Any:
    """Loads a model. Raises `ExportError` if the file is not ONNX, `RunError` if a run's file was damaged."""
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise ExportError(f"{path} {what}; expected an ONNX file that `spos-quant export` wrote")
    check(path)
    try:
        return onnx.load(path)
    except Exception as error:  # noqa: BLE001 - protobuf raises several private classes
        raise ExportError(f"{path} is no ONNX file ({type(error).__name__})") from None


def layer_name(node_name: str) -> str:
    """The module name in the scope of a node: `layer1.0.conv1` for `/layer1/layer1.0/conv1/Conv`."""
    parts: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        # The scope of an item of a container repeats the name of the container.
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def _fix_clips(graph: Any, weights: Set[str], inputs: Set[str]) -> None:
    """Removes the Clips of mid-rise weights, whose codes are already odd, and sets those of 1-bit inputs to [0, 1]."""
    for clip in [node for node in graph.node if node.op_type == "Clip"]:
        # The scope of a Clip names its layer even if the layer runs several times and its nodes are numbered.
        layer, _, _ = clip.name.partition("_quant/")
        name = layer_name(layer)
        if layer.endswith("/weight") and name in weights:
            for user in graph.node:
                for i, used in enumerate(user.input):
                    if used == clip.output[0]:
                        user.input[i] = clip.input[0]
            graph.node.remove(clip)
        elif layer.endswith("/input") and name in inputs:
            one = numpy_helper.from_array(np.array(1, dtype=np.uint8), f"{clip.output[0]}.one")
            graph.initializer.append(one)
            clip.input[2] = one.name


def _prevent_rounding(graph: Any) -> None:
    """Prevents onnxruntime from quantizing float weights and biases of layers with quantized inputs.

    If a DequantizeLinear feeds a layer, the graph optimizer quantizes float weights to 8 bits (onnxruntime pull request
    22969) and biases to multiples of input scale times weight scale (22889), which is coarse at few bits. A Max node
    with a single input changes no value and breaks the pattern that the optimizer looks for.
    """
    chains = TensorProducers(graph)
    for node in [node for node in graph.node if node.op_type in (*LAYERS, "ConvTranspose")]:
        rounded = chains.bits(node.input[1], weight=True) is None or len(node.input) > 2
        if rounded and chains.bits(node.input[0], weight=False) is not None:
            shielded = f"{node.name}/shielded"
            index = list(graph.node).index(node)
            graph.node.insert(index, onnx.helper.make_node("Max", [node.input[0]], [shielded], name=f"{shielded}/Max"))
            node.input[0] = shielded


class TensorProducers:
    """Looks up the producer and the bit-width of tensors in a graph."""

    def __init__(self, graph: Any) -> None:
        self._made = {output: node for node in graph.node for output in node.output}
        self.of_integers = any(node.op_type in _INTEGER_LAYERS for node in graph.node)
        self._constants = {item.name: item for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self._constants[node.output[0]] = node.attribute[0].t

    def producer(self, tensor: str) -> Any:
        """The node that computes a tensor, past nodes that change no value; None for inputs and initializers."""
        node = self._made.get(tensor)
        while node is not None and (node.op_type in _NO_CHANGE or (node.op_type == "Max" and len(node.input) == 1)):
            node = self._made.get(node.input[0])
        return node

    def constant(self, tensor: str) -> Any:
        """The values of an initializer or Constant; None for any other tensor."""
        found = self._constants.get(tensor)
        return None if found is None else numpy_helper.to_array(found)

    def weight_quantizer(self, tensor: str) -> Any:
        """The node that produces the weight of a layer, past any Transpose."""
        node = self.producer(tensor)
        while node is not None and node.op_type == "Transpose":
            node = self.producer(node.input[0])
        return node

    def bits(self, tensor: str, *, weight: bool) -> int | None:
        """Bits of a quantized tensor, read from the nodes and types of its quantizer; None for float tensors."""
        node = self.weight_quantizer(tensor) if weight else self.producer(tensor)
        if node is not None and node.domain == QONNX_DOMAIN:
            return self._qonnx_bits(node, weight=weight)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        before = self.producer(node.input[0])
        if before is not None and before.op_type == "Clip":
            return self._clipped(before)
        if before is not None and before.op_type == UNPACK:
            return int(self._constants[before.input[0]].dims[0])
        found = self._constants.get(node.input[0])
        if found is not None and found.data_type in _NARROW:
            return _NARROW[found.data_type]
        stored = self.constant(node.input[0])
        if weight and stored is not None and set(np.unique(stored).tolist()) <= _ODD:
            return int(np.abs(stored).max()).bit_length()
        return 8

    def integer_bits(self, layer: Any) -> tuple[int, int]:
        """Weight bits and input bits of an integer layer, read from the types and Clips of both tensors."""
        x = self._made.get(layer.input[0])
        while x is not None and x.op_type in _INTEGER_MOVES:
            x = self._made.get(x.input[0])
        return self._weight_bits(layer.input[3]), 8 if x is None or x.op_type != "Clip" else self._clipped(x)

    def _weight_bits(self, tensor: str) -> int:
        node = self._made.get(tensor)
        while node is not None and node.op_type in ("Cast", "Mul"):  # multiplication by `Layer.factor`
            tensor = node.input[0]
            node = self._made.get(tensor)
        if node is not None and node.op_type == "Clip":
            return self._clipped(node)
        stored = self.constant(tensor)
        nonzero = stored[(stored != 0).reshape(len(stored), -1).any(1)]  # BatchNorm folding may zero whole channels
        odd = stored.dtype == np.int8 and nonzero.size and set(np.unique(nonzero).tolist()) <= _ODD
        return int(np.abs(stored).max()).bit_length() if odd else 8

    def _clipped(self, clip: Any) -> int:
        """Bits of the output of a Clip of integers."""
        levels = int(self.constant(clip.input[2])) - int(self.constant(clip.input[1])) + 1
        return max(1, int(np.ceil(np.log2(levels))))

    def _qonnx_bits(self, node: Any, *, weight: bool) -> int:
        """Bits of a QONNX quantizer; mid-rise weights (odd codes, `narrow=0`) have one less than declared."""
        if node.op_type == "BipolarQuant":
            return 1
        bits = int(self.constant(node.input[3]))
        narrow = next(item.i for item in node.attribute if item.name == "narrow")
        if weight and not narrow:
            codes = np.round(self.constant(node.input[0]) / self.constant(node.input[1]))
            return bits - int(np.all(codes % 2 == 1))
        return bits


def measure_onnx(path: Path) -> dict[str, Any]:
    """The cost of an ONNX file for one image, read from its graph, with the keys of `spos-quant cost --json`.

    Bits come from quantizer nodes, Clips and types; MACs come from inferred shapes. Only the metadata of the file knows
    which layers without a quantizer were searchable.

    Raises:
        ExportError: the file is not ONNX, or its shapes cannot be inferred.
    """
    model = read_onnx(path)
    try:
        rows = _rows(model, path)
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001 - onnx raises private classes; a damaged graph raises anything
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise ExportError(f"{path}: its graph cannot be measured ({what}); export it anew") from None
    full_precision = not any(row.counted for row in rows)
    return summary(rows, space=None, architecture=None, full_precision=full_precision)


def _rows(model: Any, path: Path) -> list[LayerRow]:
    """The layers of a graph."""
    graph = onnx.shape_inference.infer_shapes(_without_qonnx_quantizers(model)).graph
    shapes = {
        item.name: [d.dim_value for d in item.type.tensor_type.shape.dim]
        for item in (*graph.value_info, *graph.output, *graph.input)
    }
    names = _metadata(model).get("searchable", [])
    searchable = {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    chains = TensorProducers(model.graph)
    weight_shapes = {item.name: list(item.dims) for item in model.graph.initializer}
    return [
        _row(node, chains, shapes, weight_shapes, searchable, path)
        for node in model.graph.node
        if node.op_type in LAYERS or (node.op_type in _INTEGER_LAYERS and f"/{STANDALONE_BATCH_NORM}/" not in node.name)
    ]


def _without_qonnx_quantizers(model: Any) -> Any:
    """A copy with Identity nodes in place of QONNX quantizers, since ONNX cannot infer shapes through these."""
    copied = copy.deepcopy(model)
    for node in copied.graph.node:
        if node.domain == QONNX_DOMAIN:
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
    return copied


def _row(
    node: Any,
    chains: TensorProducers,
    shapes: Mapping[str, Any],
    constants: Mapping[str, Any],
    searchable: set[str],
    path: Path,
) -> LayerRow:
    name = layer_name(node.name)
    integer = node.op_type in _INTEGER_LAYERS
    weight_shape = _weight_shape(node.input[3 if integer else 1], chains, constants)
    out = shapes.get(node.output[0])
    if weight_shape is None or not out:
        raise ExportError(f"{path}: shapes of node {node.name!r} cannot be inferred")
    kind = (_INTEGER_LAYERS if integer else LAYERS)[node.op_type]
    linear = kind == "Linear"
    weights = int(np.prod(weight_shape))
    channels = int(out[1]) if not linear else int(out[-1])
    positions = int(np.prod(out[1:-1] if linear else out[2:]))
    biases = channels if len(node.input) > 2 else 0
    bits: tuple[int | None, int | None] = (None, None)
    if integer:
        bits = chains.integer_bits(node)
    elif not chains.of_integers:  # in integer graphs, a Conv or Gemm is a layer that was kept float
        bits = chains.bits(node.input[1], weight=True), chains.bits(node.input[0], weight=False)
    shape = LayerShape(weights * positions, weights, biases, channels)
    return LayerRow(name, kind, shape, *bits, bits != (None, None) or name in searchable)


def _weight_shape(tensor: str, chains: TensorProducers, constants: Mapping[str, Any]) -> Any:
    while tensor not in constants:
        node = chains.producer(tensor)
        if node is None:
            return None
        if node.op_type == UNPACK:
            return chains.constant(node.input[3]).tolist()
        tensor = node.input[0]
    return constants[tensor]
