"""`sq.export_onnx` for models of every kind, its refusals, and the metadata of files."""

from __future__ import annotations

import json
from dataclasses import replace

import brevitas.nn as qnn
import numpy as np
import onnx
import pytest
import torch
from export_cases import Graph, images, logits, space, supernet
from torch import nn

import spos_quant as sq
from spos_quant.errors import ConfigError, ExportError
from spos_quant.export import api
from spos_quant.export.api import exporters
from spos_quant.export.onnx_file import METADATA_KEY, layer_name, measure_onnx, read_metadata
from spos_quant.export.runtime import OnnxModel, compare, in_batches, softmax_loss
from spos_quant.quant.quantizers import act_quantizers, weight_quantizers


def quant_conv(weight_bits, act_bits, inputs, outputs, *, signed=False, **settings):
    return qnn.QuantConv2d(
        inputs,
        outputs,
        3,
        padding=1,
        bias=False,
        weight_quant=None if weight_bits is None else weight_quantizers["gaussian"](weight_bits),
        input_quant=None if act_bits is None else act_quantizers["pact"](act_bits, signed),
        **settings,
    )


def quant_linear(weight_bits, act_bits, inputs, outputs):
    quantizers = weight_quantizers["gaussian"](weight_bits), act_quantizers["pact"](act_bits, False)
    return qnn.QuantLinear(inputs, outputs, bias=True, weight_quant=quantizers[0], input_quant=quantizers[1])


def outputs(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(x).numpy()


# ---- float files


def float_subnet(i: int = 0) -> nn.Module:
    return supernet("float").subnet(space("float").sample_many(np.random.default_rng(5), 3)[i])


@pytest.mark.parametrize("i", range(3))
def test_float_models(tmp_path, i):
    model, path = float_subnet(i), tmp_path / "float.onnx"
    report = sq.export_onnx(model, images(), path, format="onnx")
    x = images(5, seed=7)
    np.testing.assert_allclose(logits(path, x), outputs(model, x), atol=1e-5)
    assert report["agreement"] == 1.0
    assert report["format"] == "onnx"
    types = {node.op_type for node in onnx.load(path).graph.node}
    assert not types & {"QuantizeLinear", "DequantizeLinear"}
    by_file, by_model = measure_onnx(path), sq.measure(model, x)
    assert by_file["bitops"] is None is by_model["bitops"]
    for metric in ("macs", "float_macs", "weight_bytes", "bitops_total"):
        assert by_file[metric] == by_model[metric] > 0
    assert not any(layer["counted"] for layer in by_file["layers"])


def test_a_full_precision_winner_of_a_quantized_space_is_a_float_file(tmp_path):
    """Its layers are Brevitas layers without quantizers, which count as 32 bits."""
    model = nn.Sequential(quant_conv(None, None, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 4))
    path = tmp_path / "float.onnx"
    sq.export_onnx(model, images(), path, format="onnx")
    by_file, by_model = measure_onnx(path), sq.measure(model, images())
    assert by_file["bitops"] == by_model["bitops"] == 27 * 64 * 32 * 32
    assert [x["counted"] for x in by_file["layers"]] == [True, False]


# ---- models from outside


def test_nested_containers_keep_their_names(tmp_path):
    model = nn.Sequential(
        nn.Sequential(quant_conv(1, 2, 3, 4), nn.ReLU()),
        nn.ModuleDict({"inner": quant_conv(4, 1, 4, 4)})["inner"],
        nn.Sequential(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1)), nn.Flatten()),
        quant_linear(1, 3, 4, 5),
    )
    x = torch.rand(12, 3, 6, 6) * 4
    sq.export_onnx(model, x, tmp_path / "m.onnx")
    np.testing.assert_allclose(logits(tmp_path / "m.onnx", x), outputs(model, x), atol=1e-5)
    by_file, by_model = measure_onnx(tmp_path / "m.onnx"), sq.measure(model, x)
    assert by_file == by_model
    assert [x["name"] for x in by_file["layers"]] == ["0.0", "1", "3"]
    assert [(x["weight_bits"], x["act_bits"]) for x in by_file["layers"]] == [(1, 2), (4, 1), (1, 3)]


class Tokens(nn.Module):
    """A linear layer on `[n, T, C]`: a matrix product of a transposed weight in ONNX."""

    def __init__(self, weight_bits):
        super().__init__()
        self.fc = quant_linear(weight_bits, 3, 8, 5)

    def forward(self, x):
        return self.fc(x).mean(1)


@pytest.mark.parametrize("weight_bits", [1, 2, 8])
def test_linear_layers_on_sequences(tmp_path, weight_bits):
    model, x = Tokens(weight_bits), torch.rand(12, 6, 8) * 5
    sq.export_onnx(model, x, tmp_path / "m.onnx")
    np.testing.assert_allclose(logits(tmp_path / "m.onnx", x), outputs(model, x), atol=1e-5)
    by_file, by_model = measure_onnx(tmp_path / "m.onnx"), sq.measure(model, x)
    for metric in ("bitops", "macs", "weight_bytes"):
        assert by_file[metric] == by_model[metric]
    assert by_file["macs"] == 6 * 8 * 5
    assert by_file["layers"][0]["weight_bits"] == weight_bits


class Twice(nn.Module):
    def __init__(self, weight_bits, act_bits):
        super().__init__()
        self.conv = quant_conv(weight_bits, act_bits, 3, 3)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        y = self.conv(x).relu()
        return self.head(self.conv(y * 20).relu().mean((2, 3)))


@pytest.mark.parametrize("bits", [(1, 2), (4, 1), (1, 1), (3, 4)])
def test_a_layer_that_runs_twice(tmp_path, bits):
    model, x = Twice(*bits), torch.rand(12, 3, 6, 6) * 9
    sq.export_onnx(model, x, tmp_path / "m.onnx")
    difference = np.abs(logits(tmp_path / "m.onnx", x) - outputs(model, x)).max(1)
    assert (difference < 1e-5).mean() > 0.8
    by_file, by_model = measure_onnx(tmp_path / "m.onnx"), sq.measure(model, x)
    assert by_file["bitops"] == by_model["bitops"] == 2 * 81 * 36 * bits[0] * bits[1]
    assert by_file["macs"] == by_model["macs"]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_float_weights_on_quantized_inputs_stay_float(tmp_path, signed, groups):
    """onnxruntime would round them to 8 bits if a quantizer follows, which changes a logit by 4 %."""
    model = nn.Sequential(
        quant_conv(None, 4, 3, 6, signed=signed, groups=groups),
        nn.ReLU(),
        quant_conv(4, 8, 6, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )
    with torch.no_grad():
        model[0].weight[0] *= 40  # very different magnitudes: the worst case for one scale per tensor
    x = torch.randn(16, 3, 6, 6) * 4
    sq.export_onnx(model, x, tmp_path / "m.onnx")
    for optimized in (True, False):
        difference = np.abs(logits(tmp_path / "m.onnx", x, optimized=optimized) - outputs(model, x)).max(1)
        assert (difference < 1e-4).mean() > 0.8
    assert measure_onnx(tmp_path / "m.onnx") == sq.measure(model, x)
    assert measure_onnx(tmp_path / "m.onnx")["layers"][0]["act_bits"] == 4


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_bit_width_alone(tmp_path, bits):
    model = nn.Sequential(
        quant_conv(bits, max(2, bits), 3, 4, signed=True),
        nn.ReLU(),
        quant_conv(bits, bits, 4, 4),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    x = torch.randn(12, 3, 4, 4) * 5
    sq.export_onnx(model, x, tmp_path / "m.onnx")
    difference = np.abs(logits(tmp_path / "m.onnx", x) - outputs(model, x)).max(1)
    assert (difference < 1e-4).mean() > 0.8
    assert measure_onnx(tmp_path / "m.onnx") == sq.measure(model, x)
    assert {layer["weight_bits"] for layer in measure_onnx(tmp_path / "m.onnx")["layers"][:2]} == {bits}
    second = Graph(tmp_path / "m.onnx").layers()[1]
    assert np.abs(Graph(tmp_path / "m.onnx").weight(second)[1]).max() <= max(1, 2 ** (bits - 1) - 1)


# ---- refusals


def test_formats_that_cannot_represent_the_model(tmp_path):
    quantized = nn.Sequential(nn.Sequential(quant_conv(4, None, 1, 3)), nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(ExportError, match=r"layer '0.0' is quantized; `onnx` holds float models only: use onnx-qcdq"):
        sq.export_onnx(quantized, images(), tmp_path / "a.onnx", format="onnx")
    activations = nn.Sequential(quant_conv(None, 4, 1, 3), nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(ExportError, match="layer '0' is quantized"):
        sq.export_onnx(activations, images(), tmp_path / "a.onnx", format="onnx")
    with pytest.raises(ExportError, match="no quantized layer; use --format onnx"):
        sq.export_onnx(float_subnet(), images(), tmp_path / "a.onnx", format="onnx-qcdq")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_writes_nothing(tmp_path):
    with pytest.raises(ConfigError, match="unknown export format 'onnx-qdcq'; did you mean 'onnx-qcdq'"):
        sq.export_onnx(float_subnet(), images(), tmp_path / "new" / "a.onnx", format="onnx-qdcq")
    assert list(tmp_path.iterdir()) == []
    assert {"onnx", "onnx-qcdq", "onnx-packed"} <= set(exporters)


@pytest.mark.parametrize("kept", [None, b"an earlier file"])
def test_a_file_with_other_outputs_is_not_kept(tmp_path, monkeypatch, kept):
    path = tmp_path / "a.onnx"
    if kept:
        path.write_bytes(kept)

    class Wrong(OnnxModel):
        def __call__(self, x):
            return np.roll(super().__call__(x), 1, axis=1)

    monkeypatch.setitem(exporters._plugins, "onnx", replace(exporters["onnx"], open=Wrong))
    model = float_subnet().train()
    with pytest.raises(ExportError, match=r"gives other labels than the model on \d+\.\d% of 16 images .*not kept"):
        sq.export_onnx(model, images(), path, format="onnx")
    assert model.training
    assert [p.name for p in tmp_path.iterdir()] == (["a.onnx"] if kept else [])
    assert not kept or path.read_bytes() == kept


@pytest.mark.parametrize(("wrong", "refused"), [(0, False), (1, False), (2, True)])
def test_one_label_in_a_hundred_may_flip_at_a_tie(tmp_path, monkeypatch, wrong, refused):
    class Nearly(OnnxModel):
        def __call__(self, x):
            found = super().__call__(x)
            found[:wrong] = np.roll(found[:wrong], 1, axis=1)
            return found

    monkeypatch.setitem(exporters._plugins, "onnx", replace(exporters["onnx"], open=Nearly))
    model, x = float_subnet(), images(100)
    if refused:
        with pytest.raises(ExportError, match=r"on 2\.0% of 100 images"):
            sq.export_onnx(model, x, tmp_path / "a.onnx", format="onnx")
    else:
        assert sq.export_onnx(model, x, tmp_path / "a.onnx", format="onnx")["agreement"] == 1 - wrong / 100


def test_a_writer_that_fails_leaves_no_file_and_an_unchanged_model(tmp_path, monkeypatch):
    def failing(model, example, path, metadata):
        path.write_bytes(b"half a file")
        raise ExportError("no")

    monkeypatch.setitem(exporters._plugins, "onnx", api.Format(failing, "model.onnx"))
    model = float_subnet().train()
    with pytest.raises(ExportError, match="no"):
        sq.export_onnx(model, images(), tmp_path / "a.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []
    assert model.training


def test_the_check_reads_the_given_batches(tmp_path):
    model = float_subnet()
    batches = [(images(7, seed=1), torch.zeros(7)), (images(3, seed=2), torch.zeros(3))]
    sizes = []
    model.register_forward_hook(lambda m, x, y: sizes.append(len(x[0])))
    report = sq.export_onnx(model, images(4), tmp_path / "a.onnx", format="onnx", check=iter(batches))
    assert sizes[-2:] == [7, 3]
    expected = max(np.abs(logits(tmp_path / "a.onnx", x, optimized=True) - outputs(model, x)).max() for x, _ in batches)
    assert report["max_abs_diff"] == pytest.approx(expected, abs=1e-6)


def test_modes_of_all_modules_are_restored(tmp_path):
    model = nn.Sequential(quant_conv(4, 4, 1, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 4)).train()
    model[1].eval()  # frozen BatchNorm
    before = {name: t.clone() for name, t in model.state_dict().items()}
    sq.export_onnx(model, images(), tmp_path / "a.onnx")
    assert [m.training for m in model] == [True, False, True, True, True]
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.gpu
def test_a_model_on_the_gpu_stays_there(tmp_path):
    model = float_subnet().cuda()
    sq.export_onnx(model, images().cuda(), tmp_path / "a.onnx", format="onnx")
    assert next(model.parameters()).is_cuda


def test_folders_are_created_and_str_paths_are_accepted(tmp_path):
    path = tmp_path / "a" / "b.onnx"
    assert sq.export_onnx(float_subnet(), images(), str(path), format="onnx")["path"] == str(path)
    assert [p.name for p in path.parent.iterdir()] == ["b.onnx"]


# ---- metadata


def test_metadata_is_stored_in_the_file(tmp_path):
    model = nn.Sequential(quant_conv(None, None, 1, 3), quant_conv(4, 4, 3, 3), nn.Flatten(), nn.Linear(192, 4))
    given = {"classes": ["Ä", "b"], "preprocessing": {"mean": [0.1, 0.30000000000000004]}, "deep": {"x": [None, True]}}
    sq.export_onnx(model, images(), tmp_path / "a.onnx", metadata=given)
    assert read_metadata(tmp_path / "a.onnx") == {**given, "format": "onnx-qcdq", "searchable": ["0", "1"]}
    sq.export_onnx(float_subnet(), images(), tmp_path / "b.onnx", format="onnx")
    assert read_metadata(tmp_path / "b.onnx") == {"format": "onnx", "searchable": []}


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(ExportError, match=r"a\.onnx does not exist; expected an ONNX file"):
        read_metadata(path)
    with pytest.raises(ExportError, match="is no file; expected an ONNX file"):
        read_metadata(tmp_path)
    for content in (b"", b"\x89PNG\r\n\x1a\n and more", b"{}", bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(ExportError, match=r"a\.onnx (is no ONNX file|was not written by spos-quant)"):
            read_metadata(path)
    sq.export_onnx(float_subnet(), images(), path, format="onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match="no ONNX file"):
        measure_onnx(path)
    path.write_bytes(whole)
    for content in (None, "no JSON"):
        model = onnx.load(path)
        del model.metadata_props[:]
        if content is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = METADATA_KEY, content
        onnx.save(model, tmp_path / "foreign.onnx")
        with pytest.raises(ExportError, match="was not written by spos-quant: it says nothing of preprocessing"):
            read_metadata(tmp_path / "foreign.onnx")


def test_files_that_onnxruntime_cannot_load(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"a\.onnx: onnxruntime cannot load it"):
        OnnxModel(tmp_path / "a.onnx")


def test_onnxruntime_refuses_a_qonnx_file_by_name(tmp_path):
    node = onnx.helper.make_node("Quant", ["x"], ["y"], domain="qonnx.custom_op.general")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("qonnx.custom_op.general", 1)]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "q.onnx")
    with pytest.raises(ExportError, match=r"q\.onnx has operators of QONNX, which onnxruntime does not know"):
        OnnxModel(tmp_path / "q.onnx")


def test_measuring_a_product_of_two_activations_raises(tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return (self.fc(x) @ x.transpose(1, 2)).mean(1)

    sq.export_onnx(Attention(), torch.randn(2, 4, 4), tmp_path / "a.onnx", format="onnx")
    with pytest.raises(ExportError, match="shapes of node '/MatMul.*' cannot be inferred"):
        measure_onnx(tmp_path / "a.onnx")


def test_metadata_is_plain_json(tmp_path):
    sq.export_onnx(float_subnet(), images(), tmp_path / "a.onnx", format="onnx", metadata={"b": 1, "a": 2})
    (entry,) = onnx.load(tmp_path / "a.onnx").metadata_props
    assert json.loads(entry.value) == read_metadata(tmp_path / "a.onnx")
    assert list(json.loads(entry.value)) == ["a", "b", "format", "searchable"]


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/layer2/layer2.0/downsample/downsample.0/Conv", "layer2.0.downsample.0"),
        ("/conv1/Conv", "conv1"),
        ("/fc/Gemm", "fc"),
        ("/0/0.0/0.0.1/Conv", "0.0.1"),
        ("/a/ab/Conv", "a.ab"),
        ("Conv_3", ""),
    ],
)
def test_layer_names(node, name):
    assert layer_name(node) == name


# ---- the runtime's helpers


def test_compare_by_hand():
    a = np.array([[0.0, 1.0], [5.0, 2.0], [1.0, 1.5]], dtype=np.float32)
    b = np.array([[0.0, 1.25], [5.0, 2.0], [1.5, 1.0]], dtype=np.float32)
    whole = compare([(a, b)])
    assert (whole.max_abs_diff, whole.agreement, whole.n) == (0.5, 2 / 3, 3)
    assert compare([(a[:1], b[:1]), (a[1:], b[1:])]) == whole
    nothing = compare([])
    assert (nothing.agreement, nothing.n) == (0.0, 0)


def test_compare_counts_every_label_of_a_dense_output():
    a = np.zeros((2, 3, 4, 5), dtype=np.float32)
    b = a.copy()
    b[0, 1, :2] = 1.0  # other labels for 10 of 40 pixels
    found = compare([(a, b)])
    assert (found.agreement, found.n) == (0.75, 40)


def test_softmax_loss_by_hand():
    z, y = torch.randn(9, 5) * 30, torch.arange(9) % 5
    expected = torch.nn.functional.cross_entropy(z.double(), y, reduction="sum")
    assert softmax_loss(z.numpy(), y.numpy()) == pytest.approx(float(expected), rel=1e-9)
    assert softmax_loss(np.array([[1e4, 0.0]], dtype=np.float32), np.array([1])) == pytest.approx(1e4)


def test_slices_cover_everything_once():
    for items, size in ((10, 3), (9, 3), (2, 5), (0, 4)):
        assert [i for part in in_batches(items, size) for i in range(items)[part]] == list(range(items))
        assert all(part.stop - part.start <= size for part in in_batches(items, size))


def test_a_model_that_torch_cannot_export_raises_export_error(tmp_path, capfd):
    model = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(7),  # the input is 2 x 2, not a multiple of 7
        torch.nn.Flatten(),
        torch.nn.Linear(147, 2),
    )
    with pytest.raises(ExportError, match="torch's ONNX exporter cannot write this model: .*adaptive"):
        sq.export_onnx(model, torch.randn(2, 3, 2, 2), tmp_path / "m.onnx", format="onnx")
    assert "graph" not in "".join(capfd.readouterr())
    assert not list(tmp_path.iterdir())


class _WithOutput(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.layer, self.output = torch.nn.Linear(3, 2), output

    def forward(self, x):
        return self.output(self.layer(x))


@pytest.mark.parametrize(
    ("output", "example", "message"),
    [
        (lambda y: {"logits": y}, torch.randn(2, 3), "returns dict; expected logits"),
        (lambda y: y.sum(), torch.randn(2, 3), "a tensor of 0 dimensions; expected logits"),
        (lambda y: y, (torch.randn(2, 3), torch.randn(2)), "expected one tensor as example, got tuple"),
        (lambda y: y, torch.randn(2, 4), "an example of shape \\(1, 4\\) does not fit the model"),
    ],
)
def test_models_without_logits_are_refused(output, example, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        sq.export_onnx(_WithOutput(output), example, tmp_path / "m.onnx", format="onnx")
    assert not list(tmp_path.iterdir())
