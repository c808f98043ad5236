"""The texts that name a data set, and the checks on every loader's result."""

import subprocess
import sys

import numpy as np
import pytest

import spos_quant.data.loading as loading
from spos_quant.data import ArraySplit, Augmentation, DataSet, Preprocessing, check_no_code, datasets, load_data
from spos_quant.errors import ConfigError, DataError

INPUT = (3, 4, 6)


def made(**changes):
    split = ArraySplit(np.zeros((4, 4, 6, 3), np.uint8), np.array([0, 1, 0, 1]))
    values = {
        "name": "made",
        "classes": ("a", "b"),
        "preprocessing": Preprocessing(size=(4, 6), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3),
        "augmentation": Augmentation(size=(4, 6)),
        "train": split,
        "search_val": split,
        "test": split,
    }
    return DataSet(**{**values, **changes})


@pytest.fixture
def registered(monkeypatch):
    """Registers a loader `made` for one test. It returns `result`, which a test may set."""
    box = type("Box", (), {"result": made(), "calls": []})()

    def load(root, *, input, classes, seed):
        box.calls.append((root, input, classes, seed))
        return box.result

    assert "digits" in datasets
    monkeypatch.setitem(datasets._plugins, "made", load)
    return box


def test_built_in_names():
    assert list(datasets) == ["cifar10", "digits", "fake", "imagefolder"]


def test_the_loader_gets_root_input_classes_and_seed(registered):
    for text in ("made", "made:", "made:/some/where", "made:C:x", "made:function"):
        assert load_data(text, input=INPUT, classes=2, seed=7) is registered.result
    roots = [None, None, "/some/where", "C:x", "function"]
    assert registered.calls == [(root, INPUT, 2, 7) for root in roots]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", "unknown data set 'digit'; did you mean 'digits'"),
        ("", "unknown data set ''"),
        ("cifr10:/data", "unknown data set 'cifr10:/data'; did you mean 'cifar10'"),
        ("imagefoldr:photos", "did you mean 'imagefolder'"),
        ("no_such_module_here:load", r"package\.module:function"),
        ("json:/data/x", "unknown data set"),
        ("my.module:", "unknown data set"),
        ("my..module:load", "unknown data set"),
        (":load", "unknown data set"),
    ],
)
def test_unknown_names(text, message):
    with pytest.raises(ConfigError, match=message):
        load_data(text, input=INPUT, classes=2, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed must be 0 or more, got -1"):
        load_data("digits", input=(1, 8, 8), classes=10, seed=-1)


@pytest.mark.parametrize("text", ["digits", "cifar10:/data", "imagefolder:a:b", "unknown"])
def test_files_may_name_registered_data(text):
    check_no_code(text)


@pytest.mark.parametrize("text", ["mypkg.data:load", "json:loads", "cifr10:/x", ":x"])
def test_files_may_not_name_code(text):
    with pytest.raises(ConfigError, match=r"may name registered data sets only, never code"):
        check_no_code(text)


def test_check_no_code_runs_nothing(tmp_path, monkeypatch):
    (tmp_path / "evil_data.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="evil_data:load"):
        check_no_code("evil_data:load")


def floats():
    split = made().train
    object.__setattr__(split, "images", split.images.astype(np.float32))
    return split


def labelled(*labels):
    return ArraySplit(np.zeros((len(labels), 4, 6, 3), np.uint8), np.array(labels, np.int64))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "its loader must return a DataSet, got NoneType"),
        (made(classes=("a",)), "has 1 classes, but the search space has 2"),
        (
            made(preprocessing=Preprocessing(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))),
            r"has images of 1x8x8 .*takes 3x4x6",
        ),
        (made(augmentation=Augmentation(size=(8, 8))), "has images of"),
        (made(test=labelled()), "split 'test': it has no images"),
        (made(train=labelled(0, 2)), "split 'train': labels must be from 0 to 1 for 2 classes, got 0 to 2"),
        (made(search_val=labelled(-1, 1)), "split 'search-val': labels must be from 0 to 1 .* got -1 to 1"),
        (
            made(test=ArraySplit(np.zeros((1, 6, 4, 3), np.uint8), np.zeros(1, np.int64))),
            r"images must be uint8 \[4, 6, 3\] .*, got uint8 \[6, 4, 3\]",
        ),
        (made(train=floats()), "got float32"),
    ],
)
def test_every_result_is_checked(registered, result, message):
    registered.result = result
    with pytest.raises(DataError, match=message):
        load_data("made", input=INPUT, classes=2, seed=0)


def test_labels_of_other_types_are_refused(registered):
    split = made().train
    object.__setattr__(split, "labels", split.labels.astype(np.int32))
    registered.result = made(train=split)
    with pytest.raises(DataError, match=r"labels must be int64 \[4\], got int32 \[4\]"):
        load_data("made", input=INPUT, classes=2, seed=0)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light():
    code = (
        "import sys, spos_quant.data; print([n for n in ('torch', 'scipy', 'sklearn', 'pydantic') if n in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


def test_nothing_here_imports_torch():
    code = (
        "import sys; from spos_quant.data import load_data, batch\n"
        "for name, shape in (('digits', (1, 8, 8)), ('fake', (3, 8, 8))):\n"
        "    data = load_data(name, input=shape, classes=10, seed=0)\n"
        "    batch(data.train, range(4), data.preprocessing, data.augmentation, 0, 0)\n"
        "print('torch' in sys.modules)"
    )
    assert run_python(code).strip() == "False"


def test_all_built_in_modules_are_registered():
    assert set(loading._BUILT_IN) == set(datasets)
