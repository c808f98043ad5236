"""The `integers` format: the integer graph as one safetensors file, for C, FPGA and NumPy users.

Tensors hold the integers. The header holds JSON under the key `spos_quant`: the metadata of every exported file, and
the graph under `graph`. docs/export.md describes the format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spos_quant.cost.rows import LayerRow, summary
from spos_quant.errors import ExportError
from spos_quant.export.integer import reference
from spos_quant.export.integer.graph import OPS, Array, FloatLayer, IntegerGraph, Layer, Op, QuantParams, Window
from spos_quant.export.onnx_file import METADATA_KEY
from spos_quant.export.runtime import Floats
from spos_quant.run_dir import check
from spos_quant.space.shapes import LayerShape

FORMAT = "spos-quant/integers/2"
_GRAPH = "graph"
_KINDS = {kind.__name__: kind for kind in OPS}


def write_integers(graph: IntegerGraph, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes a graph to one file, which loads without running code."""
    tensors: dict[str, Array] = {}
    ops = [_to_json(op, tensors) for op in graph.ops]
    graph_json = {"format": FORMAT, "input": graph.input, "shape": graph.shape, "output": graph.output, "ops": ops}
    # One key only: safetensors writes several keys in any order, but equal graphs must give equal files.
    header = {METADATA_KEY: json.dumps({**metadata, _GRAPH: graph_json}, sort_keys=True)}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, metadata=header)


def read_integers(path: Path) -> IntegerGraph:
    """The graph of a file.

    Raises:
        ExportError: the file does not exist, is damaged, or has another format.
        RunError: the file belongs to a run and was damaged.
    """
    header, tensors = _read(path)
    try:
        graph_json = json.loads(header[METADATA_KEY])[_GRAPH]
        if graph_json["format"] != FORMAT:
            raise ExportError(f"{path} is of format {graph_json['format']!r}; this version reads {FORMAT}")
        ops = tuple(_from_json(item, tensors) for item in graph_json["ops"])
        shape = tuple(map(int, graph_json["shape"]))
        graph = IntegerGraph(str(graph_json["input"]), shape, str(graph_json["output"]), ops)
        _check(graph)
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged JSON raises anything
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise ExportError(f"{path} is damaged, or is not an `integers` file ({what}); export it anew") from None
    return graph


def read_integers_metadata(path: Path) -> dict[str, Any]:
    """The metadata in a file: preprocessing, class names, bit configuration. Raises as `read_integers` does."""
    header, _ = _read(path)
    try:
        found = json.loads(header[METADATA_KEY])
    except (KeyError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ExportError(f"{path} was not written by spos-quant; export it with `spos-quant export --format integers`")
    return {key: value for key, value in found.items() if key != _GRAPH}


def sizes(path: Path) -> dict[str, int]:
    """Bytes of a file by tensor data type, and `graph` for all other bytes."""
    _, tensors = _read(path)
    found: dict[str, int] = {}
    for array in tensors.values():
        name = str(array.dtype).upper()
        found[name] = found.get(name, 0) + array.nbytes
    return {**dict(sorted(found.items())), "graph": path.stat().st_size - sum(found.values())}


class IntegerModel:
    """An `integers` file that the NumPy reference executes.

    Args:
        path: The file.

    Raises:
        ExportError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.graph = path, read_integers(path)

    def __call__(self, x: Floats) -> Floats:
        """Logits `[n, classes]` of preprocessed images `[n, C, H, W]`. Raises `ExportError` if execution fails."""
        return _run(self.path, self.graph, x, None)


def measure_integers(path: Path) -> dict[str, Any]:
    """The cost of a file for one image, from its tensors and shapes, with the keys of `spos-quant cost --json`.

    Raises:
        ExportError: the file cannot be read or run.
    """
    graph = read_integers(path)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(tensor: str, values: Array) -> None:
        shapes[tensor] = values.shape

    _run(path, graph, np.zeros((1, *graph.shape), np.float32), note)
    tensor_qparams = graph.tensor_qparams()
    rows = [
        _row(op, shapes, tensor_qparams)
        for op in graph.ops
        if isinstance(op, FloatLayer) or (isinstance(op, Layer) and op.layer)
    ]
    return summary(rows, space=None, architecture=None, full_precision=not any(row.counted for row in rows))


def _run(path: Path, graph: IntegerGraph, x: Floats, note: Callable[[str, Array], None] | None) -> Floats:
    if x.shape[1:] != graph.shape:
        raise ExportError(f"{path} takes images of shape {list(graph.shape)}, got {list(x.shape[1:])}")
    try:
        return reference.run(graph, x, note)
    except Exception as error:  # noqa: BLE001 - a damaged graph raises anything
        raise ExportError(
            f"{path} cannot be run ({type(error).__name__}: {str(error)[:200]}); export it anew"
        ) from None


def _row(
    op: Layer | FloatLayer, shapes: Mapping[str, tuple[int, ...]], tensor_qparams: Mapping[str, QuantParams | None]
) -> LayerRow:
    out = shapes[op.output]
    positions = int(np.prod(out[2:]))
    biases = len(op.bias) if op.bias.any() else 0
    shape = LayerShape(op.weight.size * positions, op.weight.size, biases, len(op.weight))
    kind = "Linear" if op.window is None else "Conv2d"
    if isinstance(op, FloatLayer) or op.wide:
        return LayerRow(op.name, kind, shape, None, None, False)
    qparams = tensor_qparams[op.inputs[0]]
    assert qparams is not None
    return LayerRow(op.name, kind, shape, _weight_bits(op), (qparams.qmax - qparams.qmin).bit_length(), True)


def _weight_bits(op: Layer) -> int:
    """The bits that the file declares, or more if its integers need more."""
    assert op.weight_bits is not None
    largest = int(np.abs(op.weight.astype(int)).max(initial=0))
    needed = largest.bit_length() if op.odd else largest.bit_length() + 1
    return max(op.weight_bits, needed)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise ExportError(f"{path} {what}; expected a file that `spos-quant export --format integers` wrote")
    check(path)
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise ExportError(f"{path} is damaged, or is not an `integers` file: {str(error)[:200]}") from None


# ---- operations as JSON


def _to_json(op: Op, tensors: dict[str, Array]) -> dict[str, Any]:
    op_json: dict[str, Any] = {"op": type(op).__name__}
    for field in fields(op):
        value = getattr(op, field.name)
        if isinstance(value, np.ndarray):
            key = f"{op.name}.{field.name}" if f"{op.name}.{field.name}" not in tensors else f"{op.output}.{field.name}"
            tensors[key] = value
            value = {"tensor": key}
        elif isinstance(value, QuantParams | Window):
            value = {part.name: getattr(value, part.name) for part in fields(value)}
        elif field.name in ("limits", "parameters") and value is not None:
            value = [number if np.isfinite(number) else str(number) for number in value]  # JSON has no infinity
        op_json[field.name] = value
    if op.qparams is not None:
        op_json["output_min"], op_json["output_max"] = op.qparams.codes(op.limits)
    return op_json


def _from_json(op_json: Mapping[str, Any], tensors: Mapping[str, Array]) -> Op:
    kind = _KINDS[op_json["op"]]
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = op_json[field.name]
        if isinstance(value, Mapping) and "tensor" in value:
            value = tensors[value["tensor"]]
        elif field.name == "qparams" and value is not None:
            value = QuantParams(float(value["scale"]), *(int(value[key]) for key in ("zero_point", "qmin", "qmax")))
        elif field.name == "window" and value is not None:
            value = _window(value)
        elif field.name == "limits" and value is not None:
            low, high = map(float, value)
            value = (low, high)
        elif field.name == "parameters":
            value = tuple(map(float, value))
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return kind(**values)


def _window(window: Mapping[str, Any]) -> Window:
    top, left, bottom, right = map(int, window["padding"])
    kernel, stride, dilation = ((int(window[key][0]), int(window[key][1])) for key in ("kernel", "stride", "dilation"))
    ceil = bool(window["ceil"])
    return Window(kernel=kernel, stride=stride, dilation=dilation, padding=(top, left, bottom, right), ceil=ceil)


def _check(graph: IntegerGraph) -> None:
    """Raises `ValueError` if an operation reads an unknown tensor, or an array has a wrong type."""
    known = {graph.input}
    for op in graph.ops:
        if not set(op.inputs) <= known or not all(isinstance(name, str) for name in (*op.inputs, op.output)):
            raise ValueError(f"{op.name} reads a tensor that no operation computes")
        if isinstance(op, Layer) and (
            op.weight.dtype.kind != "i" or op.bias.dtype != np.int32 or op.scale.dtype != np.float32
        ):
            raise ValueError(f"{op.name} has arrays of other types than integers and float32 scales")
        known.add(op.output)
    if graph.output not in known:
        raise ValueError("no operation computes the output")
