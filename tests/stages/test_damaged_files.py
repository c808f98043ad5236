"""Fuzzing: randomly damaged files given to predict, verify and load end in a result or in a `SposQuantError`."""

from __future__ import annotations

import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

import spos_quant as sq
from spos_quant.errors import SposQuantError
from spos_quant.stages import verify
from spos_quant.stages.load import load_model
from spos_quant.stages.predict import predict_split
from spos_quant.stages.run import read_run

KEY = "bitops-2.2M"
_OPERATORS = ("Conv", "Gemm", "Clip", "UnpackBits", "Quant", "DequantizeLinear", "Nothing")
FORMATS = ("onnx-qcdq", "onnx-packed", *(["qonnx"] if find_spec("qonnx") else []))


class Spoiler:
    """Makes damaged files from good ones.

    Args:
        rng: Random generator of all damage.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def bytes(self, data: bytes) -> bytes:
        """The data truncated, with flipped bits, with lost or repeated bytes, or with inserted noise."""
        place, kind = int(self.rng.integers(len(data))), int(self.rng.integers(6))
        if kind == 0:
            return data[:place]
        if kind == 1:
            flipped = bytearray(data)
            for i in self.rng.integers(len(data), size=int(self.rng.integers(1, 9))):
                flipped[i] ^= 1 << int(self.rng.integers(8))
            return bytes(flipped)
        if kind == 2:
            return data[:place] + data[place + int(self.rng.integers(1, 200)) :]
        if kind == 3:
            return data[:place] + data[max(0, place - 300) :]
        noise = self.rng.integers(0, 256, int(self.rng.integers(1, 99)), dtype=np.uint8).tobytes()
        return noise + data if kind == 4 else data[:place] + noise + data[place:]

    def graph(self, data: bytes) -> bytes:
        """A valid protobuf of an invalid graph: nodes, tensors and metadata are removed or changed."""
        model = onnx.ModelProto.FromString(data)
        graph = model.graph
        for _ in range(int(self.rng.integers(1, 4))):
            kind = int(self.rng.integers(3))
            if kind == 0 and graph.node:
                self._change_node(graph, graph.node[int(self.rng.integers(len(graph.node)))])
            elif kind == 1 and graph.initializer:
                self._change_tensor(graph, graph.initializer[int(self.rng.integers(len(graph.initializer)))])
            elif kind == 2:
                for entry in model.metadata_props:
                    entry.value = self.bytes(entry.value.encode()).decode("utf-8", "replace")
        return model.SerializeToString()

    def _change_node(self, graph, node) -> None:
        kind = int(self.rng.integers(4))
        if kind == 0:
            graph.node.remove(node)
        elif kind == 1:
            node.op_type = _OPERATORS[int(self.rng.integers(len(_OPERATORS)))]
        elif kind == 2:
            del node.input[int(self.rng.integers(1 + len(node.input))) :]
        else:
            del node.attribute[:]

    def _change_tensor(self, graph, tensor) -> None:
        kind = int(self.rng.integers(5))
        if kind == 0:
            graph.initializer.remove(tensor)
        elif kind == 1:
            del tensor.dims[:]
            tensor.dims.extend(int(d) for d in self.rng.integers(-2, 9, int(self.rng.integers(4))))
        elif kind == 2:
            tensor.data_type = int(self.rng.integers(0, 30))
        elif kind == 3:
            tensor.raw_data = self.rng.integers(0, 256, len(tensor.raw_data), dtype=np.uint8).tobytes()
        else:
            tensor.raw_data = tensor.raw_data[: int(self.rng.integers(1 + len(tensor.raw_data)))]


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A copy of the run without checksums, which would detect every damage before a file is read."""
    copied = tmp_path / "run"
    shutil.copytree(tiny_run, copied)
    (copied / "results" / KEY / "checksums.sha256").unlink()
    return copied


def answered(call) -> str:
    """`answered`, or `refused` after a `SposQuantError` of one line; anything else fails the test."""
    try:
        call()
    except SposQuantError as error:
        text = str(error)
    else:
        return "answered"
    assert text.isprintable()
    assert len(text) < 2_000
    return "refused"


def fuzz(run: Path, command, n: int, seed: int) -> Counter[tuple[str, str]]:
    """Counts of the outcomes of `n` damaged files of each kind."""
    folder, counts = run / "results" / KEY, Counter[tuple[str, str]]()
    result = read_run(run)[0].result(KEY)
    logits = verify._logits(load_model(result), result)
    spoiler = Spoiler(np.random.default_rng(seed))
    for form in FORMATS:
        made = command("export", run, "--result", KEY, "--format", form, json=True)
        (folder / "checksums.sha256").unlink()
        path, whole = Path(made["path"]), Path(made["path"]).read_bytes()
        assert answered(lambda p=path, f=form: verify._verify_file(p, f, result, logits, None, {})) == "answered"
        for number in range(n):
            path.write_bytes(spoiler.graph(whole) if number % 2 else spoiler.bytes(whole))
            outcome = answered(lambda p=path, f=form: verify._verify_file(p, f, result, logits, None, {}))
            counts[f"verify {form}", outcome] += 1
            if form == "onnx-qcdq":
                counts["predict", answered(lambda p=path: predict_split(p, "digits", "test", 0))] += 1
        path.write_bytes(whole)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for _ in range(n):
        weights.write_bytes(spoiler.bytes(whole))
        counts["load safetensors", answered(lambda: sq.load(run, KEY))] += 1
    weights.write_bytes(whole)
    return counts


def test_some_damaged_files(run, command):
    counts = fuzz(run, command, 4, seed=1)
    assert counts["load safetensors", "refused"] > 0


@pytest.mark.slow
def test_many_damaged_files(run, command):
    counts = fuzz(run, command, 150, seed=2)
    for kind in {kind for kind, _ in counts}:
        assert counts[kind, "refused"] >= 20, counts
