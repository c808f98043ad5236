"""QCDQ files: they give the outputs of the model, hold integers, and have the cost of the cost table."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_cases import Graph, images, logits, space, supernet

import spos_quant as sq
from spos_quant.errors import ExportError
from spos_quant.export.onnx_file import measure_onnx
from spos_quant.quant.static import is_quant_layer, read_bits, read_signed

SAMPLES = {"digits-mixed": 2, "whole": 2, "mixed": 2}


def architectures(name: str):
    return space(name).sample_many(np.random.default_rng(72), SAMPLES[name])


CASES = [(name, i) for name, n in SAMPLES.items() for i in range(n)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`(model, path, report of the export)` per case, created once."""
    made = {}

    def get(name: str, i: int):
        if (name, i) not in made:
            path = tmp_path_factory.mktemp("onnx") / f"{i}.onnx"
            model = supernet(name).subnet(architectures(name)[i]).eval()
            made[name, i] = (model, path, sq.export_onnx(model, images(), path))
        return made[name, i]

    return get


def bits(model):
    return {name: read_bits(m) for name, m in model.named_modules() if is_quant_layer(m)}


def test_cases_cover_all_special_layers(exported):
    seen, signed, shared = set(), set(), False
    for case in CASES:
        model = exported(*case)[0]
        found = bits(model)
        seen |= set(found.values())
        signed |= {read_signed(m) for m in model.modules() if is_quant_layer(m)}
        for name in found:
            if name.endswith("downsample.0"):
                block = model.get_submodule(name.removesuffix(".downsample.0"))
                first = next((m for m in block.modules() if is_quant_layer(m)), None)
                shared |= first is not None and first.input_quant is block.get_submodule("downsample.0").input_quant
    weight, act = {w for w, _ in seen}, {a for _, a in seen}
    assert weight == {None, 1, 2, 3, 4, 8}
    assert act == {None, 1, 2, 3, 4, 8}
    assert {(None, None), (1, 1)} <= seen
    assert signed == {None, False, True}
    assert shared


@pytest.mark.parametrize(("name", "i"), CASES)
def test_the_file_gives_the_outputs_of_the_model(exported, name, i):
    """On other images than the check of the export, with and without the optimizations of onnxruntime."""
    model, path, report = exported(name, i)
    x = images(24, seed=30 + i)
    with torch.no_grad():
        ours = model(x).numpy()
    for optimized in (False, True):
        theirs = logits(path, x, optimized=optimized)
        # Now and then an activation lies on a rounding boundary, where float sums in another order round differently.
        assert (np.abs(theirs - ours).max(1) < 1e-5).mean() > 0.8
        assert (theirs.argmax(1) == ours.argmax(1)).mean() > 0.9
    assert ours.std(0).min() > 1e-3, "the logits hardly depend on the image"
    assert report == {
        "path": str(path),
        "format": "onnx-qcdq",
        "bytes": path.stat().st_size,
        "max_abs_diff": pytest.approx(
            np.abs(logits(path, images()) - model(images()).detach().numpy()).max(), abs=2e-2
        ),
        "agreement": 1.0,
    }


@pytest.mark.parametrize(("name", "i"), CASES)
def test_costs_measured_from_the_graph_from_the_model_and_from_the_table_agree(exported, name, i):
    model, path, _ = exported(name, i)
    by_file, by_model = measure_onnx(path), sq.measure(model, images(2))
    by_table = supernet(name).cost(architectures(name)[i])
    for metric in ("bitops", "bitops_total", "macs", "float_macs", "weight_bytes", "formula"):
        assert by_file[metric] == by_model[metric] == by_table[metric], metric
    assert by_model["params"] == by_table["params"]
    keys = ("kind", "macs", "weight_bits", "act_bits", "bitops", "counted")
    ours, theirs = ({x["name"]: [x[k] for k in keys] for x in cost["layers"]} for cost in (by_file, by_table))
    assert ours == theirs
    assert by_file["bitops"] > 0


@pytest.mark.parametrize(("name", "i"), CASES)
def test_quantized_weights_are_integers_and_declare_their_bits(exported, name, i):
    model, path, _ = exported(name, i)
    graph = Graph(path)
    found = bits(model)
    floats = {n for n, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))} - found.keys()
    nodes = {".".join(dict.fromkeys(_scope(node.name))): node for node in graph.layers()}
    assert nodes.keys() == found.keys() | floats
    for layer, node in nodes.items():
        weight_bits, act_bits = found.get(layer, (None, None))
        types, stored = graph.weight(node)
        if weight_bits is None:
            assert types in ([], ["Transpose"])
            assert stored.dtype == np.float32
        elif weight_bits <= 2:  # the default quantizer is mid-rise at 1 and 2 bits
            assert types == ["DequantizeLinear"]
            assert stored.dtype == np.int8
            assert set(np.unique(stored)) == ({-1, 1} if weight_bits == 1 else {-3, -1, 1, 3})
        else:
            assert types == ["DequantizeLinear", "Clip"]
            most = 2 ** (weight_bits - 1) - 1
            assert stored.dtype == np.int8
            assert graph.clip(graph.chain(node.input[1])) == (-most, most)
            assert np.abs(stored).max() <= most
            assert len(np.unique(stored)) > 2
        chain = graph.chain(node.input[0])
        if act_bits is None:
            assert not chain
            continue
        signed = bool(read_signed(model.get_submodule(layer)))
        low = -(2 ** (act_bits - 1)) if signed else 0
        kinds = [n.op_type for n in chain]
        if act_bits == 8:
            assert kinds == ["DequantizeLinear", "QuantizeLinear"]
            assert graph.constants[chain[0].input[2]].dtype == (np.int8 if signed else np.uint8)
        else:
            assert kinds == ["DequantizeLinear", "Clip", "QuantizeLinear"]
            assert graph.clip(chain) == (low, low + 2**act_bits - 1)
        assert not graph.constants[chain[0].input[2]].any(), "a zero point"


def _scope(node: str) -> list[str]:
    """Parts of the module name of a node; names of containers, which their items repeat, are left out."""
    parts = node.strip("/").split("/")[:-1]
    return [p for p, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{p}.")]


@pytest.mark.parametrize(("name", "i"), CASES)
def test_no_float_copy_of_a_quantized_weight_remains(exported, name, i):
    model, path, _ = exported(name, i)
    floats = sum(m.weight.numel() for m in model.modules() if type(m) in (torch.nn.Conv2d, torch.nn.Linear))
    floats += sum(m.weight.numel() for m in model.modules() if is_quant_layer(m) and read_bits(m)[0] is None)
    stored = [a for a in Graph(path).constants.values() if a.dtype == np.float32 and a.ndim > 1]
    assert sum(a.size for a in stored) == floats
    integers = [a for a in Graph(path).constants.values() if a.dtype == np.int8 and a.ndim > 1]
    assert sum(a.size for a in integers) == sum(
        m.weight.numel() for m in model.modules() if is_quant_layer(m) and read_bits(m)[0] is not None
    )


@pytest.mark.parametrize(("name", "i"), CASES)
def test_the_graph_has_one_input_of_any_batch_size_and_is_valid(exported, name, i):
    model, path, _ = exported(name, i)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [item.name for item in proto.graph.input] == ["input"]
    assert [item.name for item in proto.graph.output] == ["logits"]
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    assert sizes[0].dim_param == "n"
    assert [d.dim_value for d in sizes[1:]] == [1, 8, 8]
    assert proto.ir_version >= 8
    # onnxruntime warns about unused tensors
    read = {name for node in proto.graph.node for name in node.input} | {"logits"}
    assert {item.name for item in proto.graph.initializer} <= read
    assert {name for node in proto.graph.node for name in node.output} <= read
    assert {(o.domain, o.version) for o in proto.opset_import} == {("", 17)}
    x = images(7, seed=3)
    alone = np.concatenate([logits(path, x[k : k + 1]) for k in range(7)])
    np.testing.assert_allclose(logits(path, x), alone, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(alone, model(x).numpy(), atol=1e-5)


def test_the_model_is_unchanged(exported):
    model, path, _ = exported("mixed", 0)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    sq.export_onnx(model, images(), path.with_name("again.onnx"))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()
    assert path.with_name("again.onnx").read_bytes() == path.read_bytes(), "the same model gives another file"


def test_a_signed_1_bit_activation_is_refused_by_name(tmp_path):
    from spos_quant.backbones.build import build, space_of
    from spos_quant.space.spec import parse_spec

    raw = {"name": "signed", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 10, "keep_float": []}
    made = build(space_of(parse_spec({**raw, "axes": {"bits": [[4, 1]]}}, "signed")))
    with pytest.raises(ExportError, match="layer 'conv1' has a signed 1-bit input.*at least 2 activation bits"):
        sq.export_onnx(made.subnet(()), images(), tmp_path / "signed.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantizer", ["midrise+pact", "lsq-midrise+pact", "lsq+pact"])
def test_midrise_weights_and_learned_scales_are_stored_and_counted_exactly(quantizer, tmp_path):
    """2-bit codes -3, -1, 1, 3 are stored without a Clip and counted as 2 bits by file, model and cost table."""
    from spos_quant.backbones.build import build, space_of
    from spos_quant.space.spec import parse_spec
    from spos_quant.supernet.calibrate import calibrate_clips

    axes = {"op": ["sepconv3x3"], "weight_bits": [2, 1, 4], "act_bits": [2]}
    raw = {"name": "odd", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 10, "axes": axes}
    made = build(space_of(parse_spec({**raw, "bits_per": "layer", "quantizer": quantizer}, "odd")), seed=2)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "weight_quant" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    calibrate_clips(made, images(6, seed=9))
    a = made.space.canonical([i % 3 for i in range(len(made.space.axes))])
    model = made.subnet(a).eval()
    report = sq.export_onnx(model, images(), tmp_path / "m.onnx")
    assert report["agreement"] == 1.0
    assert report["max_abs_diff"] < 1e-5
    by_file, by_model, by_table = measure_onnx(tmp_path / "m.onnx"), sq.measure(model, images(2)), made.cost(a)
    for metric in ("bitops", "bitops_total", "weight_bytes"):
        assert by_file[metric] == by_model[metric] == by_table[metric]
    bits_of = {x["name"]: x["weight_bits"] for x in by_file["layers"]}
    assert bits_of == {x["name"]: x["weight_bits"] for x in by_table["layers"]}
    assert {1, 2, 4} <= set(bits_of.values())
    graph = Graph(tmp_path / "m.onnx")
    for node in graph.layers():
        name = ".".join(_scope(node.name))
        types, stored = graph.weight(node)
        values = set(np.unique(stored).tolist())
        if bits_of[name] == 2 and "midrise" in quantizer:
            assert types == ["DequantizeLinear"]
            assert stored.dtype == np.int8
            assert values == {-3, -1, 1, 3}
        elif bits_of[name] == 2:
            assert types == ["DequantizeLinear", "Clip"]
            assert values == {-1, 0, 1}
        elif bits_of[name] == 1:
            assert values == {-1, 1}
        if bits_of[name] is not None:
            layer = model.get_submodule(name)
            (dequantize,) = (n for n in graph.chain(node.input[1]) if n.op_type == "DequantizeLinear")
            scale = graph.constants[dequantize.input[1]].reshape(-1, *[1] * (stored.ndim - 1))
            np.testing.assert_array_equal(stored * scale, layer.quant_weight().value.detach().numpy())


@pytest.mark.parametrize("form", ["onnx-qcdq", "onnx-packed"])
@pytest.mark.parametrize("bits", [(1, 2), (2, 2), (3, 4), (4, 4), (8, 8), (None, 4)])
def test_onnxruntime_optimizations_do_not_round_biases(form, bits, tmp_path):
    """onnxruntime would round a bias to multiples of input scale times weight scale; biases here are half of one."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 6, 3, bias=True), torch.nn.Flatten(),
        torch.nn.Linear(6 * 16, 5),
    )  # fmt: skip
    x = torch.randn(16, 3, 8, 8)
    supernet = sq.quantize(net, x[:8], bits=[bits], keep_float=(), calibrate=[x])
    model = supernet.subnet((0,) * len(supernet.space.axes)).eval()
    sq.export_onnx(model, x, tmp_path / "a.onnx", format=form)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        ours = model(x).numpy()
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(ours).max()
