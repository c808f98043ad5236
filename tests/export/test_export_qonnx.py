"""QONNX files: written by Brevitas with corrections, executed by the `qonnx` package."""

from __future__ import annotations

import builtins

import numpy as np
import onnx
import pytest
import torch
from export_cases import Graph, images, space, supernet
from test_export_api import quant_conv, quant_linear
from torch import nn

import spos_quant as sq
from spos_quant.errors import ExportError
from spos_quant.export.onnx_file import bytes_by_type, measure_onnx
from spos_quant.export.qonnx import QonnxModel

pytest.importorskip("qonnx")


@pytest.mark.parametrize(
    ("name", "i"), [("mixed", 0), *(pytest.param(n, 0, marks=pytest.mark.slow) for n in ("digits-mixed", "whole"))]
)
def test_outputs_and_costs_equal_those_of_the_model(tmp_path, name, i):
    model = supernet(name).subnet(space(name).sample_many(np.random.default_rng(72), 2)[i]).eval()
    path = tmp_path / "m.onnx"
    report = sq.export_onnx(model, images(), path, format="qonnx")
    x = images(8, seed=30)
    with torch.no_grad():
        assert (np.abs(QonnxModel(path)(x.numpy()) - model(x).numpy()).max(1) < 1e-5).mean() > 0.8
    assert report["agreement"] == 1.0
    by_file, by_model = measure_onnx(path), sq.measure(model, images(2))
    for metric in ("bitops", "bitops_total", "macs", "weight_bytes"):
        assert by_file[metric] == by_model[metric], metric
    bits = [[(x["name"], x["weight_bits"], x["act_bits"]) for x in cost["layers"]] for cost in (by_file, by_model)]
    assert sorted(bits[0], key=str) == sorted(bits[1], key=str)
    assert sum(bytes_by_type(path).values()) == path.stat().st_size


def network(weight_bits: int, act_bits: int, *, signed: bool = False) -> nn.Module:
    torch.manual_seed(weight_bits)
    return nn.Sequential(
        quant_conv(weight_bits, act_bits, 3, 4, signed=signed),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        quant_conv(weight_bits, act_bits, 4, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        quant_linear(weight_bits, 8, 4, 5),
    ).eval()


@pytest.mark.parametrize("weight_bits", [1, 2, 3, 8])
@pytest.mark.parametrize("act_bits", [1, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_every_bit_width(tmp_path, weight_bits, act_bits, signed):
    """A signed 1-bit activation, which QCDQ cannot represent, is a BipolarQuant node."""
    model, x = network(weight_bits, act_bits, signed=signed), torch.randn(12, 3, 5, 5) * 5
    sq.export_onnx(model, x, tmp_path / "m.onnx", format="qonnx")
    with torch.no_grad():
        difference = np.abs(QonnxModel(tmp_path / "m.onnx")(x.numpy()) - model(x).numpy()).max(1)
    assert (difference < 1e-4).mean() > 0.8
    rows = measure_onnx(tmp_path / "m.onnx")["layers"]
    assert [(r["weight_bits"], r["act_bits"]) for r in rows] == [(weight_bits, b) for b in (act_bits, act_bits, 8)]


def test_an_unsigned_1_bit_activation_has_a_zero(tmp_path):
    """Stock Brevitas writes a BipolarQuant for it, whose output is never 0."""
    model = network(4, 1)
    x = torch.randn(4, 3, 5, 5) * 5
    sq.export_onnx(model, x, tmp_path / "m.onnx", format="qonnx")
    graph = Graph(tmp_path / "m.onnx")
    nodes = [graph.maker[layer.input[0]] for layer in graph.layers() if layer.input[0] in graph.maker][:2]
    for node in nodes:
        signed = next(item.i for item in node.attribute if item.name == "signed")
        assert (node.op_type, signed, int(graph.constants[node.input[3]])) == ("Quant", 0, 1)


def test_midrise_weights_are_the_odd_levels_of_one_bit_more(tmp_path):
    from spos_quant.quant.quantizers import weight_quantizers

    model = network(3, 4)
    odd = type(model[3])(4, 4, 3, padding=1, bias=False, weight_quant=weight_quantizers["midrise"](2))
    odd.input_quant = model[3].input_quant
    model[3] = odd
    x = torch.randn(12, 3, 5, 5) * 5
    sq.export_onnx(model.eval(), x, tmp_path / "m.onnx", format="qonnx")
    with torch.no_grad():
        difference = np.abs(QonnxModel(tmp_path / "m.onnx")(x.numpy()) - model(x).numpy()).max(1)
    assert (difference < 1e-4).mean() > 0.8
    graph = Graph(tmp_path / "m.onnx")
    node = graph.maker[graph.layers()[1].input[1]]
    codes = graph.constants[node.input[0]] / graph.constants[node.input[1]]
    assert sorted({round(float(code)) for code in codes.flatten()}) == [-3, -1, 1, 3]
    assert int(graph.constants[node.input[3]]) == 3
    assert [row["weight_bits"] for row in measure_onnx(tmp_path / "m.onnx")["layers"]] == [3, 2, 3]


def test_the_graph_has_one_input_and_is_valid(tmp_path):
    x = torch.randn(4, 3, 5, 5)
    sq.export_onnx(network(4, 4), x, tmp_path / "m.onnx", format="qonnx", metadata={"classes": ["a"]})
    model = onnx.load(tmp_path / "m.onnx")
    assert [item.name for item in model.graph.input] == ["input"]
    assert {item.domain for item in model.opset_import} == {"", "qonnx.custom_op.general"}
    runner = QonnxModel(tmp_path / "m.onnx")
    alone = np.concatenate([runner(x.numpy()[k : k + 1]) for k in range(4)])
    np.testing.assert_allclose(runner(x.numpy()), alone, atol=1e-6)
    with pytest.raises(ExportError, match="qonnx cannot run it on 4x1x5x5"):
        runner(np.zeros((4, 1, 5, 5), np.float32))


def test_without_the_package_nothing_is_written(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.split(".")[0] == "qonnx":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ExportError, match="pip install 'spos-quant\\[qonnx\\]'"):
        sq.export_onnx(network(4, 4), torch.randn(4, 3, 5, 5), tmp_path / "m.onnx", format="qonnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_quantized_layers_is_refused(tmp_path):
    with pytest.raises(ExportError, match="no quantized layer; use --format onnx"):
        sq.export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(2, 4), tmp_path / "m", format="qonnx")
