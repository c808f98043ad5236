"""`onnx-int8` and `integers` over families and bits: equal to the NumPy reference, close to the model, measured."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from integer_cases import FAMILIES, graph, images, model, outputs

import spos_quant as sq
from spos_quant.errors import ExportError
from spos_quant.export import api
from spos_quant.export.integer import reference
from spos_quant.export.integer.file import (
    IntegerModel,
    measure_integers,
    read_integers,
    read_integers_metadata,
    write_integers,
)
from spos_quant.export.integer.onnx_writer import write_onnx_int8
from spos_quant.export.onnx_file import measure_onnx

WEIGHT_BITS, ACT_BITS = (1, 2, 3, 4, 8), (1, 2, 4, 8)
BITS = [(w, a) for w in WEIGHT_BITS for a in ACT_BITS]
FEW = [(1, 2), (3, 4), (8, 8)]
# Signed inputs have no 1-bit form (decision record 0006).
SIGNED = ("mobile", "shuffle")
SOME = [("resnet", w, a) for w, a in [(1, 1), (2, 1), (4, 4), (1, 8), *FEW]] + [
    (f, w, a) for f in FAMILIES for w, a in FEW
]
ALL = [(f, w, a) for f in ("resnet", *FAMILIES) for w, a in BITS if not (a == 1 and f in SIGNED)]
REST = [pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in SOME]
CASES = [*SOME, *REST]


@pytest.mark.parametrize(("family", "weight_bits", "act_bits"), CASES)
def test_files_give_the_outputs_of_the_reference(family, weight_bits, act_bits, tmp_path):
    made, x = graph(family, weight_bits, act_bits), images(16, seed=3)
    ours = reference.run(made, x.numpy())
    assert ours.std(0).max() > 1e-3, "the logits hardly depend on the image"
    write_onnx_int8(made, tmp_path / "m.onnx", {})
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
        theirs = outputs(tmp_path / "m.onnx", x, level)
        np.testing.assert_allclose(theirs, ours, atol=1e-5 * max(1, np.abs(ours).max()))
        assert (theirs.argmax(1) == ours.argmax(1)).all()
    write_integers(made, tmp_path / "m.safetensors", {})
    assert (IntegerModel(tmp_path / "m.safetensors")(x.numpy()) == ours).all()


@pytest.mark.parametrize(("family", "weight_bits", "act_bits"), CASES)
def test_files_cost_what_the_model_costs(family, weight_bits, act_bits, tmp_path):
    plain, made = model(family, weight_bits, act_bits), graph(family, weight_bits, act_bits)
    write_onnx_int8(made, tmp_path / "m.onnx", {})
    write_integers(made, tmp_path / "m.safetensors", {})
    wanted = sq.measure(plain, images(1))
    for found in (measure_onnx(tmp_path / "m.onnx"), measure_integers(tmp_path / "m.safetensors")):
        for metric in ("bitops", "bitops_total", "macs", "float_macs", "weight_bytes"):
            assert found[metric] == wanted[metric], metric
        keys = ("kind", "macs", "weight_bits", "act_bits", "counted")
        ours, theirs = ({x["name"]: [x[k] for k in keys] for x in cost["layers"]} for cost in (found, wanted))
        assert ours == theirs


@pytest.mark.parametrize("family", ["resnet", *FAMILIES])
@pytest.mark.parametrize("keep_float", [("first", "last"), ()])
def test_8_bit_outputs_are_close_to_the_model(family, keep_float):
    """Folding, 32-bit biases and 8-bit sums change logits little at 8 bits."""
    x = images(48, seed=4)
    with torch.no_grad():
        ours = model(family, 8, 8, keep_float)(x).numpy()
    theirs = reference.run(graph(family, 8, 8, keep_float), x.numpy())
    assert np.sqrt(np.square(theirs - ours).mean()) < 0.08 * ours.std()


@pytest.mark.parametrize("family", ["resnet", *FAMILIES])
def test_all_layers_run_on_integer_kernels(family, tmp_path):
    """The optimized graph has an integer kernel per quantized layer, no BatchNorm and no inner float layer."""
    made = graph(family, 4, 4)
    write_onnx_int8(made, tmp_path / "m.onnx", {})
    outputs(tmp_path / "m.onnx", images(2), "ORT_ENABLE_EXTENDED", tmp_path / "optimized.onnx")
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    kinds = Counter(node.op_type for node in nodes)
    inside = [layer for layer in made.layers() if not layer.wide]
    assert kinds["QLinearConv"] + kinds["QGemm"] == len(inside)
    assert kinds["Conv"] + kinds["FusedConv"] + kinds["Gemm"] + kinds["FusedGemm"] == 2, "the first layer and the last"
    assert not {"BatchNormalization", "Relu", "Add", "Mul"} & kinds.keys()
    weights = {item.name for item in onnx.load(tmp_path / "optimized.onnx").graph.initializer}
    for node in nodes:
        if node.op_type in ("QLinearConv", "QGemm"):
            assert node.input[3] in weights, "onnxruntime did not fold the factor into the weight"


def test_pooling_after_a_wide_layer_precedes_its_rounding(tmp_path):
    write_onnx_int8(graph("stem", 4, 4), tmp_path / "m.onnx", {})
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    made = {name: node for node in nodes for name in node.output}
    (pool,) = (node for node in nodes if node.op_type == "MaxPool")
    assert made[pool.input[0]].op_type == "Conv"
    assert [node.op_type for node in nodes if pool.output[0] in node.input] == ["QuantizeLinear"]


def test_every_node_has_initializers_of_its_own(tmp_path):
    write_onnx_int8(graph("resnet", 4, 4), tmp_path / "m.onnx", {})
    made = onnx.load(tmp_path / "m.onnx").graph
    used = Counter(name for node in made.node for name in set(node.input))
    assert {used[item.name] for item in made.initializer} == {1}


@pytest.mark.parametrize("bits", [(8, 8), (7, 8), (8, 7), (4, 8)])
def test_16_bit_sums_never_overflow(bits):
    """The sum of two products of the largest codes fits 16 bits, or weights are unsigned, with sums of 32 bits."""
    from spos_quant.export.integer.layers import largest_weight

    made = graph("resnet", *bits)
    tensor_qparams = made.tensor_qparams()
    for layer in made.layers():
        if not layer.wide:
            most = int(np.abs(layer.weight.astype(int)).max()) * layer.factor
            top = tensor_qparams[layer.inputs[0]].qmax
            assert 2 * top * most < 2**15 or (bits == (8, 8) and most > largest_weight(tensor_qparams[layer.inputs[0]]))


@pytest.mark.parametrize("form", ["onnx-int8", "integers"])
def test_export_checks_and_reports(form, tmp_path):
    report = sq.export_onnx(model("resnet", 8, 8), images(64, seed=2), tmp_path / "m", format=form)
    assert report["format"] == form
    assert report["agreement"] >= 0.99
    assert report["bytes"] == (tmp_path / "m").stat().st_size


def test_the_refusal_of_other_labels_suggests_integer_training(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "MIN_AGREEMENT", 1.01)
    with pytest.raises(ExportError, match=r"other labels.*retrain\.fold"):
        sq.export_onnx(model("resnet", 4, 4), images(8, seed=2), tmp_path / "m", format="onnx-int8")
    assert list(tmp_path.iterdir()) == []


def test_a_written_graph_is_read_back(tmp_path):
    made = graph("mobile", 3, 4)
    write_integers(made, tmp_path / "a.safetensors", {"classes": ["a"]})
    write_integers(read_integers(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", {"classes": ["a"]})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert read_integers_metadata(tmp_path / "a.safetensors") == {"classes": ["a"]}


class Half(torch.nn.Module):
    """A given module between two layers."""

    def __init__(self, middle: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = torch.nn.Conv2d(3, 4, 3), middle, torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.last(self.middle(self.first(x).relu()).mean((2, 3)))


class Normed(torch.nn.Module):
    """A model with InstanceNorm, which has no integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.InstanceNorm2d(4), torch.nn.Linear(4, 5)
        self.second = torch.nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.fc(self.second(self.norm(self.conv(x))).mean((2, 3)))


def test_models_without_integer_form_are_refused_by_module_name(tmp_path):
    x = images(8)
    middle = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1))
    keep = ("first", "last", "middle.2")
    half = sq.quantize(Half(middle), x, bits=[(4, 4)], keep_float=keep, calibrate=[x])
    with pytest.raises(ExportError, match=r"'middle\.2' has float weights and inputs.*give it bits"):
        sq.export_onnx(half.subnet(()), x, tmp_path / "m", format="onnx-int8")
    normed = sq.quantize(Normed(), x, bits=[(4, 4)], calibrate=[x])
    with pytest.raises(ExportError, match=r"module 'norm': operator InstanceNormalization has no integer form"):
        sq.export_onnx(normed.subnet(()), x, tmp_path / "m", format="integers")
    signed = model("mobile", 2, 1)
    with pytest.raises(ExportError, match="signed 1-bit input"):
        sq.export_onnx(signed, x, tmp_path / "m", format="onnx-int8")
    assert list(tmp_path.iterdir()) == []
