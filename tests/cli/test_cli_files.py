"""Files that are damaged, lie, or carry code: search spaces, bit configurations, pictures, weights, ONNX files."""

from __future__ import annotations

import copy
import json
import os
import sys

import numpy as np
import onnx
import pytest
from cli_cases import SPACE, contents, refused
from onnx import TensorProto, helper
from PIL import Image

from spos_quant.backbones.build import load_space

CONFIG = load_space("digits-mixed").uniform_config(4, 4).to_json()
LAYER = "layer1.0.conv1"
# Ends a command after its plan was checked and before anything is written.
NOT_RUN = ["--bitops-budget", "4M", "--device", "nowhere"]


def below(key, levels, inner="1"):
    return key + "[" * levels + inner + "]" * levels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SPACE.encode("utf-16"), "is no UTF-8 text (byte 0); expected a YAML file"),
        (SPACE.replace("name: x", "name: größe").encode("latin-1"), "is no UTF-8 text (byte 8)"),
        (SPACE.replace("backbone", "\tbackbone"), "is no valid YAML: while scanning"),
        ("[" * 1_000_000, "values nested more than 40 deep"),
        ("{" * 1_000_000, "values nested more than 40 deep"),
        (below("a: ", 100_000), "values nested more than 40 deep"),
        ("".join(" " * i + "-\n" for i in range(1_000)), "values nested more than 40 deep"),
        (SPACE + "groups: [" + "a," * 450_000 + "a]", "more than 20,000 values"),
        (SPACE + "z: &z [" + "1," * 300 + "1]\nall: [" + "*z," * 300 + "*z]", "more than 20,000 values"),
        (SPACE + "z: &z [*z]", "an alias inside of what it names"),
        (SPACE + "name: y", "key 'name' appears twice"),
        (SPACE + "<<: {a: 1}", "merge keys (<<) are not read"),
        (SPACE.replace("classes: 10", "classes: 0x" + "f" * 9_000), "a number of 9,002 characters"),
        (
            SPACE.replace("classes: 10", "classes: 9223372036854775808"),
            "classes: input should be less than or equal to",
        ),
        (SPACE.replace("[1, 8, 8]", "[1, 8, 1.0e+9]"), "input.2: input should be a valid integer, got float"),
        (SPACE.replace("bits: [[2", "width: [" + "0.5," * 200 + "1], bits: [[2"), "a candidate appears twice"),
        (SPACE + "train: {epochs: !!int ''}", "is no valid YAML: IndexError"),
        (SPACE + "z: !!timestamp soon", "is no valid YAML: AttributeError"),
        (SPACE.replace("classes: 10", "classes: 1" + ":59" * 9_000 + ".5"), "a number of 27,003 characters"),
        (SPACE + "z: !!bool maybe", "is no valid YAML: KeyError"),
        (SPACE + '"a\\nb\\e[31m": 1', r"x.yaml.'a\nb\x1b[31m': unknown key"),
        (SPACE + "? " + "k" * 9_000 + "\n: 1", "kkk...: unknown key"),
        (SPACE + "1.5: 1", "x.yaml.1.5: keys should be strings, got float 1.5"),
        (SPACE + "z: !!python/object/apply:os.system ['touch ran']", "only plain YAML is read, nothing was run"),
        (SPACE + "z: !!python/object/new:os.system ['touch ran']", "nothing was run"),
        (SPACE + "z: !!python/module:antigravity ''", "nothing was run"),
        (SPACE + "z: !include /etc/passwd", "asks for an object"),
        ("#" * 1_000_001, "x.yaml: more than 1,000,000 bytes; expected a YAML file, which is smaller"),
        (SPACE.replace("name: x\n", ""), "x.yaml.name: is missing"),
    ],
)
def test_search_spaces(call, tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(call("cost", "x.yaml"), message)
    assert contents(tmp_path) == ["x.yaml"]


def test_a_byte_order_mark_is_no_mistake(call, tmp_path):
    (tmp_path / "x.yaml").write_text(SPACE, "utf-8-sig")
    (tmp_path / "b.json").write_text(json.dumps(CONFIG), "utf-8-sig")
    assert call("cost", "x.yaml")[0] == 0
    assert call("cost", "digits-mixed", "--bits", "b.json")[0] == 0


def changed(*path, to=...):
    raw = copy.deepcopy(CONFIG)
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return json.dumps(raw)


def with_tail(text):
    return json.dumps(CONFIG)[:-1] + ", " + text + "}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((changed("layers", LAYER, "weight_bits", to=v), "weight_bits: input should be") for v in (0, 33, -1, 1e9)),
        (
            changed("layers", LAYER, "weight_bits", to=True),
            "weight_bits: input should be a valid integer, got bool True",
        ),
        (changed("layers", LAYER, "weight_bits", to="4"), "valid integer, got str '4'"),
        (changed("layers", LAYER, "act_bits", to=[4]), "act_bits: input should be a valid integer, got list [4]"),
        (changed("layers", LAYER, "act_bits"), f"layers.{LAYER}.act_bits: is missing"),
        (changed("layers", LAYER, "act_bit", to=4), "unknown key; did you mean 'act_bits'?"),
        (changed("layers", LAYER, "out_channels", to=7), "says 7 output channels, its operator and width give 16"),
        (changed("layers", LAYER), f"layer '{LAYER}' is missing in the bit configuration"),
        (changed("layers", LAYER + "x", to=CONFIG["layers"][LAYER]), f"has not; did you mean '{LAYER}'?"),
        (changed("layers", "a\nb", to=CONFIG["layers"][LAYER]), r"names a layer 'a\nb' that"),
        (changed("layers", "a" * 5000, to=CONFIG["layers"][LAYER]), "has not; (known: conv1,"),
        (changed("layers", to=[]), "layers: input should be a valid mapping, got list []"),
        (changed("blocks", "layer1.0", "op", to="conv3x4"), "operator 'conv3x4' at width 1.0 are not known"),
        (changed("blocks", "layer1.0", "width", to=10**400), "width: input should be"),
        (changed("blocks", "layer9.0", to=CONFIG["blocks"]["layer1.0"]), "names a block 'layer9.0'"),
        (changed("format", to=1), "format: expected 'spos-quant/bit-config/1', got int 1"),
        (changed("input", to="3x8x8"), "input: input should be a list, got str '3x8x8'"),
        (changed("model"), "model: is missing"),
        (with_tail('"model": "x"'), "key 'model' appears twice"),
        (with_tail('"cost": {"bitops": NaN}'), "NaN is no number that JSON knows"),
        (with_tail('"cost": {"bitops": ' + "9" * 5000 + "}"), "is no JSON text"),
        (with_tail(below('"cost": {"a": ', 300) + "}"), "values are nested too deeply; expected at most 40 levels"),
        (below("", 10_000), "is no JSON text"),
        (json.dumps(CONFIG)[:-40], "is no JSON text"),
        (json.dumps(CONFIG).encode("utf-16"), "is no UTF-8 text (byte 0); expected a bit configuration (JSON)"),
        ("", "is no JSON text"),
        ("[]", "expected a bit configuration (a JSON object), got list []"),
        (SPACE, "is no JSON text"),
        (" " * 1_000_001, "b.json: more than 1,000,000 bytes; expected a bit configuration"),
    ],
)
def test_bit_configurations(call, tmp_path, content, message):
    path = tmp_path / "b.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(call("cost", "digits-mixed", "--bits", "b.json"), message)
    assert contents(tmp_path) == ["b.json"]


def pictures(root, *, broken, content):
    for split in ("train", "test"):
        for name in "0123456789":
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("L", (8, 8), 20 * i).save(root / split / name / f"{i}.png")
    for path in (root / broken).rglob("*.png"):
        path.write_bytes(content)


@pytest.mark.parametrize("broken", ["train", "test"])
@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 20])
def test_a_broken_picture_is_named(call, tmp_path, broken, content):
    pictures(tmp_path / "p", broken=broken, content=content)
    message = refused(
        call("run", "digits-mixed", *NOT_RUN, "--data", "imagefolder:p"), f"p/{broken}/", "replace or remove"
    )
    assert message.startswith("error: image ")
    assert not (tmp_path / "runs").exists()


def test_a_broken_picture_that_training_meets_is_named(call, tmp_path):
    pictures(tmp_path / "p", broken="train/7", content=b"no picture")
    settings = ["--set", "train.epochs=1", "--set", "train.batch_size=8"]
    result = call("train", "digits-mixed", "--data", "imagefolder:p", "--device", "cpu", *settings)
    refused(result, "p/train/7/", "cannot be read", "replace or remove the file")
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit(3)", "it raised SystemExit: 3; mend the function"),
        ("raise ValueError('line\\n' * 50)", r"it raised ValueError: line\nline\n"),
        ("return None", "it must return a DataSet, or a mapping with 'train' and 'test'"),
        ("return {'train': (x, y * np.nan), 'test': (x, y)}", "'train' labels must be whole numbers [20], got ndarray"),
        ("return {'train': (x, y), 'test': (x.astype(object), y)}", "'test' images must be uint8 [N, 8, 8, 1]"),
        ("return {'train': (x[:, :4], y), 'test': (x, y)}", "got ndarray uint8 [20, 4, 8]"),
        ("return {'train': (x, y + 1), 'test': (x, y)}", "labels must be from 0 to 9 for 10 classes, got 1 to 10"),
        ("return {'train': (x[:0], y[:0]), 'test': (x, y)}", "'train' has no images"),
        ("yield x, y", "got generator"),
        ("return load()", "it raised RecursionError"),
    ],
)
def test_data_functions(call, tmp_path, monkeypatch, body, message):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("my_rubbish", None)
    source = "import numpy as np\nx, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10\n"
    (tmp_path / "my_rubbish.py").write_text(f"{source}def load():\n    {body}\n")
    refused(call("run", "digits-mixed", *NOT_RUN, "--data", "my_rubbish:load"), "my_rubbish:load", message)
    assert contents(tmp_path) == ["my_rubbish.py"]


class Harm:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def weights_file(path, kind):
    import torch
    from safetensors.torch import save

    tensors = {"conv1.weight": torch.zeros(16, 1, 3, 3)}
    torch.save({"harm": Harm()} if kind == "code" else tensors, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "pickle":
        path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    elif kind == "truncated safetensors":
        path.write_bytes(save(tensors)[:-8])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("w.pt", "truncated", "w.pt is damaged, or cannot be read without running code, which was not run"),
        ("w.pt", "code", "which was not run (UnpicklingError); expected safetensors, or a state dict"),
        ("w.safetensors", "code", "w.safetensors is damaged or no safetensors file"),
        ("w", "pickle", "which was not run"),
        ("w.safetensors", "truncated safetensors", "w.safetensors is damaged or no safetensors file"),
        ("w.pt", "other network", "w.pt misses 'bn1.weight'; did you mean 'conv1.weight'?"),
        (".", None, "weights file . is no file"),
        ("none.pt", None, "weights file none.pt does not exist"),
    ],
)
def test_weights(call, tmp_path, name, kind, message):
    (tmp_path / "x.yaml").write_text(SPACE + f"weights: {name}\n")
    if kind:
        weights_file(tmp_path / name, kind)
    before = contents(tmp_path)
    refused(call("train", "x.yaml", "--device", "nowhere"), message)
    assert contents(tmp_path) == before


def test_the_code_in_the_weights_would_run(tmp_path, monkeypatch):
    """What the test above relies on: unpickling this file without our guard does make the file."""
    import torch

    monkeypatch.chdir(tmp_path)
    weights_file(tmp_path / "w.pt", "code")
    torch.load("w.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


PREPROCESSING = {"size": [8, 8], "channels": 1, "mean": [0.3], "std": [0.3], "resize": None}
SAID = {"preprocessing": PREPROCESSING, "classes": list("0123456789")}


def onnx_file(said=None, *, weights=1.0, outputs=10, inputs=("x",)):
    """A linear classifier as an ONNX file that says `said` of itself."""
    taken = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 8, 8]) for name in inputs]
    given = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])]
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [64, outputs], np.full(64 * outputs, weights))
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", taken, given, [matrix]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    if said is not None:
        onnx.helper.set_model_props(model, {"spos_quant": said if isinstance(said, str) else json.dumps(said)})
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "was not written by spos-quant"),
        (b"no model\n" * 50, "m.onnx is no ONNX file (DecodeError)"),
        (onnx_file(SAID)[:-300], "m.onnx is no ONNX file (DecodeError)"),
        (onnx_file(), "was not written by spos-quant: it says nothing of preprocessing and classes; export it with"),
        *((onnx_file(said), "was not written by spos-quant") for said in ("{", "[1]", "3", "null", "[" * 100_000)),
        (onnx_file({"classes": ["a"]}), "preprocessing must be a mapping of size, channels, mean, std, resize"),
        *((onnx_file(SAID | {"classes": c}), "names no classes") for c in (None, 3, [], "ab", [0, 1], {"a": 1})),
        (onnx_file(SAID | {"preprocessing": PREPROCESSING | {"std": [0]}}), "std must be above 0, got [0.0]; export"),
        (onnx_file(SAID | {"preprocessing": PREPROCESSING | {"size": [10**6, 10**6]}}), "1 to 4096, got [1000000,"),
        (onnx_file(SAID | {"preprocessing": PREPROCESSING | {"size": [16, 8]}}), "cannot run it on 1x1x16x8"),
        (
            onnx_file(SAID | {"classes": ["a", "b"]}),
            "answers 1 images with numbers of shape [1, 10]; expected a finite",
        ),
        (onnx_file(SAID, outputs=3), "numbers of shape [1, 3]; expected a finite number for each of 10 classes"),
        (onnx_file(SAID, weights=float("nan")), "answers 1 images with NaN or infinity"),
        (onnx_file(SAID, inputs=("x", "other")), "takes 2 inputs; expected one, the images"),
    ],
)
def test_onnx_files(call, tmp_path, content, message):
    (tmp_path / "m.onnx").write_bytes(content)
    Image.new("L", (8, 8), 9).save(tmp_path / "i.png")
    refused(call("predict", "m.onnx", "i.png"), "m.onnx", message)


def test_the_onnx_file_that_others_differ_from_is_read(call, tmp_path):
    (tmp_path / "m.onnx").write_bytes(onnx_file(SAID))
    Image.new("L", (8, 8), 9).save(tmp_path / "i.png")
    status, out, err = call("predict", "m.onnx", "i.png", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["predictions"][0]["probability"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bad.png"], "image bad.png cannot be read: cannot identify image file"),
        (["i.png", "cut.png"], "image cut.png cannot be read"),
        (["none.png"], "image none.png: no such file"),
        (["folder"], "image folder cannot be read"),
        (["a\nb"], r"image a\nb: no such file"),
        (["x" * 5000], "xxx cannot be read"),
        (["m.onnx"], "image m.onnx cannot be read"),
        (["i.png", "--data", "digits"], "give either --data D or pictures"),
        (["--data", "digits", "--split", "tset"], "unknown split 'tset'; did you mean 'test'?"),
        (["--data", "fake"], "fake has the classes class 0, class 1"),
        (["--data", "imagefolder:folder"], "no folder folder/train; expected a folder per class in it"),
        (["--data", "cifar10:folder"], "neither cifar-10-batches-bin nor cifar-10-binary.tar.gz in folder"),
    ],
)
def test_pictures_and_data_of_predict(call, tmp_path, arguments, message):
    (tmp_path / "m.onnx").write_bytes(onnx_file(SAID))
    (tmp_path / "folder").mkdir()
    Image.new("L", (8, 8), 9).save(tmp_path / "i.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "i.png").read_bytes()[:40])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    refused(call("predict", "m.onnx", *arguments), message)


@pytest.mark.parametrize(("model", "what"), [("folder", "is no file"), ("none.onnx", "does not exist")])
def test_models_that_are_not_there(call, tmp_path, model, what):
    (tmp_path / "folder").mkdir()
    refused(call("predict", model, "i.png"), f"{model} {what}; expected an ONNX file that `spos-quant export` wrote")
