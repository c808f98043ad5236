"""Packed files: exactly the outputs of the QCDQ file, in the bytes that the bit-widths need."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from export_cases import images, logits, space, supernet
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import spos_quant as sq
from spos_quant.errors import ExportError
from spos_quant.export import packed
from spos_quant.export.onnx_file import DOMAIN, UNPACK, bytes_by_type, measure_onnx
from spos_quant.export.packed import runs_int2

CASES = [(name, i) for name in ("digits-mixed", "whole", "mixed") for i in range(2)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`(model, packed file, QCDQ file, report of the export)` per case, created once."""
    made = {}

    def get(name: str, i: int):
        if (name, i) not in made:
            folder = tmp_path_factory.mktemp("packed")
            model = supernet(name).subnet(space(name).sample_many(np.random.default_rng(72), 2)[i]).eval()
            report = sq.export_onnx(model, images(), folder / "packed.onnx", format="onnx-packed")
            sq.export_onnx(model, images(), folder / "qcdq.onnx")
            made[name, i] = (model, folder / "packed.onnx", folder / "qcdq.onnx", report)
        return made[name, i]

    return get


@pytest.mark.parametrize(("name", "i"), CASES)
def test_outputs_equal_those_of_the_qcdq_file_exactly(exported, name, i):
    _, path, qcdq, report = exported(name, i)
    x = images(24, seed=31)
    for optimized in (False, True):
        np.testing.assert_array_equal(logits(path, x, optimized=optimized), logits(qcdq, x, optimized=optimized))
    assert report["agreement"] == 1.0
    assert report["format"] == "onnx-packed"


@pytest.mark.parametrize(("name", "i"), CASES)
def test_costs_are_read_from_the_packed_nodes(exported, name, i):
    model, path, qcdq, _ = exported(name, i)
    assert measure_onnx(path) == measure_onnx(qcdq)
    by_model = sq.measure(model, images(2))
    assert all(measure_onnx(path)[key] == by_model[key] for key in ("bitops", "macs", "weight_bytes"))


def skeleton(path) -> int:
    """Bytes of the graph alone: without weights, metadata and one-dimensional floats."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 or tensor.data_type == TensorProto.FLOAT:
            tensor.ClearField("raw_data")
    del model.metadata_props[:]
    return model.ByteSize()


@pytest.mark.parametrize(("name", "i"), CASES)
def test_the_file_is_the_packed_weights_and_a_documented_overhead(exported, name, i):
    """Weights within 5 % of the theoretical bytes, plus 4 bytes per float and some 100 per node (docs/export.md)."""
    model, path, qcdq, _ = exported(name, i)
    file = onnx.load(path)
    ideal = sum(_ideal(row, model) for row in measure_onnx(path)["layers"])
    stored = sum(len(t.raw_data) for t in file.graph.initializer if len(t.dims) > 1 and not _is_places(t))
    assert ideal <= stored <= 1.05 * ideal + 8 * len(measure_onnx(path)["layers"])
    assert skeleton(path) <= 100 * len(file.graph.node) + 1_000
    metadata = sum(len(entry.key) + len(entry.value) for entry in file.metadata_props)
    vectors = sum(len(t.raw_data) for t in file.graph.initializer if len(t.dims) <= 1)
    assert path.stat().st_size <= 1.05 * ideal + vectors + metadata + 100 * len(file.graph.node) + 1_200
    assert path.stat().st_size < qcdq.stat().st_size


def _is_places(tensor) -> bool:
    return tensor.data_type == TensorProto.INT32


def _ideal(row, model) -> int:
    weights = model.get_submodule(row["name"]).weight.numel()
    return 4 * weights if row["weight_bits"] is None else -(-weights * row["weight_bits"] // 8)


def test_bytes_by_type_add_up_to_the_file(exported):
    _, path, qcdq, _ = exported("digits-mixed", 0)
    for file in (path, qcdq):
        assert sum(bytes_by_type(file).values()) == file.stat().st_size
    packed_bytes = sum(n for kind, n in bytes_by_type(path).items() if kind.startswith(("INT", "UINT")))
    assert packed_bytes < bytes_by_type(qcdq)["INT8"]


@pytest.mark.parametrize(("name", "i"), CASES)
def test_onnxruntime_unpacks_while_it_loads(exported, name, i, tmp_path):
    import onnxruntime

    _, path, _, _ = exported(name, i)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    left = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert not left.keys() & {UNPACK, "BitShift", "BitwiseAnd", "ReduceSum", "ReduceProd"}
    assert left["DequantizeLinear"] > 5


def test_the_graph_is_valid_and_small(exported):
    _, path, _, _ = exported("whole", 1)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [function.name for function in model.functions] == [UNPACK]
    read = {name for node in model.graph.node for name in node.input} | {"logits"}
    assert {item.name for item in model.graph.initializer} <= read
    assert {name for node in model.graph.node for name in node.output} <= read
    x = images(7, seed=3)
    alone = np.concatenate([logits(path, x[k : k + 1]) for k in range(7)])
    np.testing.assert_allclose(logits(path, x), alone, atol=1e-6)


def test_the_same_model_gives_the_same_file(exported, tmp_path):
    model, path, _, _ = exported("mixed", 0)
    sq.export_onnx(model, images(), tmp_path / "again.onnx", format="onnx-packed")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_a_model_without_quantized_layers_is_refused(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ExportError, match="no quantized layer; use --format onnx"):
        sq.export_onnx(model, images(), tmp_path / "a.onnx", format="onnx-packed")
    assert list(tmp_path.iterdir()) == []


# ---- weights alone, against numpy


def graph_of(codes: np.ndarray, bits: int) -> onnx.ModelProto:
    """A model that returns the integers of a weight as floats; the exporter's function stores the weight."""
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, codes.shape)])
    name, is_int2 = packed._store(graph, packed._Weight("w", None, codes, bits))
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    graph.initializer.append(one)
    graph.node.append(helper.make_node("DequantizeLinear", [name, "one"], ["y"]))
    opset = helper.make_opsetid("", packed.INT2_OPSET if is_int2 else packed.OPSET)
    model = helper.make_model(graph, opset_imports=[opset, helper.make_opsetid(DOMAIN, 1)])
    model.functions.append(packed._unpack_function(opset))
    model.ir_version = helper.find_min_ir_version_for([opset])
    return model


@given(
    bits=st.integers(1, 8),
    odd=st.booleans(),
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_weights_of_any_bits_and_shape_round_trip(bits, odd, shape, seed):
    import onnxruntime

    odd = odd or bits == 1
    rng = np.random.default_rng(seed)
    if odd and bits < 8:
        codes = (2 * rng.integers(0, 2**bits, shape) + 1 - 2**bits).astype(np.int8)
    else:
        codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int8)
    model = graph_of(codes, bits)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], codes)
    stored = max(len(t.raw_data) for t in model.graph.initializer if t.name.startswith("w.packed"))
    assert codes.size * bits / 8 <= max(stored, codes.size * bits / 8) <= max(codes.size * bits / 8 + bits, 64)


def test_4_and_2_bits_are_stored_as_onnx_stores_them():
    """Compares with the tensors that onnx's own helper packs and unpacks."""
    codes = np.array([[-7, 3, 0], [5, -1, 7]], np.int8)
    (tensor,) = (t for t in graph_of(codes, 4).graph.initializer if t.name.startswith("w.packed"))
    assert tensor.raw_data == helper.make_tensor("t", TensorProto.INT4, codes.shape, codes).raw_data or (
        np.array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)
    )
    assert len(tensor.raw_data) == 3
    if runs_int2():
        codes = np.array([[-1, 1, 0, 1, -1]], np.int8)
        (tensor,) = (t for t in graph_of(codes, 2).graph.initializer if t.name.startswith("w.packed"))
        np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)
        assert len(tensor.raw_data) == 2


def test_without_int2_support_bit_planes_give_the_same_outputs(exported, tmp_path, monkeypatch):
    model, path, _, _ = exported("digits-mixed", 1)
    monkeypatch.setattr(packed, "runs_int2", lambda: False)
    sq.export_onnx(model, images(), tmp_path / "planes.onnx", format="onnx-packed")
    x = images(8, seed=5)
    np.testing.assert_array_equal(logits(tmp_path / "planes.onnx", x), logits(path, x))
    assert measure_onnx(tmp_path / "planes.onnx") == measure_onnx(path)
    file = onnx.load(tmp_path / "planes.onnx")
    assert "INT2" not in bytes_by_type(tmp_path / "planes.onnx")
    assert {o.version for o in file.opset_import if o.domain == ""} == {packed.OPSET}


@pytest.mark.parametrize("quantizer", ["midrise+pact", "lsq-midrise+pact"])
def test_midrise_weights(quantizer, tmp_path):
    from spos_quant.backbones.build import build, space_of
    from spos_quant.space.spec import parse_spec
    from spos_quant.supernet.calibrate import calibrate_clips

    axes = {"op": ["conv3x3"], "bits": [[2, 2]]}
    raw = {"name": "odd", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 10, "axes": axes}
    made = build(space_of(parse_spec({**raw, "quantizer": quantizer}, "odd")), seed=2)
    calibrate_clips(made, images(6, seed=9))
    model = made.subnet((0,) * len(made.space.axes)).eval()
    sq.export_onnx(model, images(), tmp_path / "packed.onnx", format="onnx-packed")
    sq.export_onnx(model, images(), tmp_path / "qcdq.onnx")
    np.testing.assert_array_equal(logits(tmp_path / "packed.onnx", images()), logits(tmp_path / "qcdq.onnx", images()))
    assert measure_onnx(tmp_path / "packed.onnx") == measure_onnx(tmp_path / "qcdq.onnx")
    for metric in ("bitops", "weight_bytes"):
        assert measure_onnx(tmp_path / "packed.onnx")[metric] == sq.measure(model, images())[metric]
    planes = [n for n in onnx.load(tmp_path / "packed.onnx").graph.node if n.op_type == UNPACK]
    assert len(planes) == len([row for row in measure_onnx(tmp_path / "packed.onnx")["layers"] if row["counted"]])


class Twice(nn.Module):
    """A layer that runs twice is stored once."""

    def __init__(self):
        super().__init__()
        from test_export_api import quant_conv, quant_linear

        self.conv, self.head = quant_conv(3, 4, 3, 3), quant_linear(3, 4, 3, 5)

    def forward(self, x):
        return self.head(self.conv(self.conv(x).relu() * 9).relu().mean((2, 3)))


def test_a_layer_that_runs_twice_is_stored_once(tmp_path):
    model, x = Twice().eval(), torch.rand(12, 3, 6, 6) * 9
    sq.export_onnx(model, x, tmp_path / "packed.onnx", format="onnx-packed")
    sq.export_onnx(model, x, tmp_path / "qcdq.onnx")
    np.testing.assert_array_equal(logits(tmp_path / "packed.onnx", x), logits(tmp_path / "qcdq.onnx", x))
    assert measure_onnx(tmp_path / "packed.onnx")["bitops"] == sq.measure(model, x)["bitops"]
    assert sum(n.op_type == UNPACK for n in onnx.load(tmp_path / "packed.onnx").graph.node) == 2
