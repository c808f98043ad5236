"""Data sets from a user's function."""

import sys

import numpy as np
import pytest

from spos_quant.data import batch, load_data
from spos_quant.errors import DataError

INPUT = (3, 4, 6)
HEADER = """
import numpy as np
from spos_quant.data import *

rng = np.random.default_rng(0)

def part(n=10, shape=(4, 6, 3)):
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % 2
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Writes a module, calls its `load` and unloads the module."""
    monkeypatch.chdir(tmp_path)
    # The working folder is not on the path, as for an installed command.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])

    def run(source, text="user_data:load", shape=INPUT, classes=2, seed=0):
        (tmp_path / "user_data.py").write_text(HEADER + source)
        before = list(sys.path)
        try:
            return load_data(text, input=shape, classes=classes, seed=seed)
        finally:
            sys.modules.pop("user_data", None)
            assert sys.path == before

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return run


ODD = """
from collections.abc import Mapping

class OddBase(BaseException):
    pass

class Mute(Exception):
    def __repr__(self):
        raise ValueError("no text")
    __str__ = __repr__

class Odd:
    labels = np.arange(10) % 2

    @property
    def shape(self):
        raise RuntimeError("no shape")

class BrokenMapping(Mapping):
    def __getitem__(self, key):
        raise OSError("disk")
    __len__ = __getitem__

    def __iter__(self):
        raise OSError("disk")

class Images:
    labels = np.arange(10) % 2

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return 10

    def image(self, index):
        if index == self.bad:
            raise KeyError(f"image {index}")
        return np.zeros((4, 6, 3), np.uint8)

def throw(error):
    raise error

def data_set(*splits):
    return DataSet("mine", ("a", "b"), Preprocessing((4, 6), 3, (0.5,) * 3, (0.5,) * 3), Augmentation((4, 6)), *splits)
"""


def returning(expression):
    return f"def load():\n    return {expression}\n"


def test_train_and_test(load):
    data = load(returning('{"train": part(20), "test": part(6)}'))
    assert (len(data.train), len(data.search_val), len(data.test)) == (16, 4, 6)
    assert data.name == "user_data:load"
    assert data.classes == ("0", "1")
    assert (data.augmentation.pad, data.augmentation.flip) == (0, False)
    pixels = np.concatenate([data.train.images, data.search_val.images]) / 255
    np.testing.assert_allclose(data.preprocessing.mean, pixels.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(data.preprocessing.std, pixels.std((0, 1, 2)), rtol=1e-9)
    assert data.train.labels.dtype == np.int64


def test_every_option(load):
    data = load(
        returning(
            '{"train": part(20), "test": list(part(6)), "search-val": part(3), "classes": ["a", "b"], '
            '"mean": [0.1, 0.2, 0.3], "std": np.ones(3), "flip": True, "pad": 2}'
        )
    )
    assert (len(data.train), len(data.search_val), len(data.test)) == (20, 3, 6)
    assert data.classes == ("a", "b")
    assert data.preprocessing.mean == (0.1, 0.2, 0.3)
    assert data.preprocessing.std == (1.0, 1.0, 1.0)
    assert (data.augmentation.pad, data.augmentation.flip) == (2, True)


def test_grey_images_may_leave_out_the_channel_axis(load):
    data = load(
        returning('{"train": part(20, (5, 5)), "test": part(6, (5, 5, 1)), "mean": 0.5, "std": 0.25}'), shape=(1, 5, 5)
    )
    assert data.train.images.shape == (16, 5, 5, 1)
    assert data.preprocessing.std == (0.25,)


def test_constant_images_get_a_standard_deviation_of_1(load):
    zeros = "(np.zeros((4, 4, 6, 3), np.uint8), np.array([0, 1, 0, 1]))"
    assert load(returning(f'{{"train": {zeros}, "test": part()}}')).preprocessing.std == (1.0, 1.0, 1.0)


def test_a_returned_data_set_is_used_unchanged(load):
    source = """
def load():
    images, labels = part(8)
    split = ArraySplit(images, labels)
    return DataSet("mine", ("a", "b"), Preprocessing((4, 6), 3, (0.5,) * 3, (0.5,) * 3), Augmentation((4, 6)),
                   split.subset([0, 1]), split.subset([2, 3]), split.subset([4, 5]))
"""
    assert load(source).name == "mine"
    with pytest.raises(DataError, match="data set 'user_data:load' has 2 classes, but the search space has 3"):
        load(source, classes=3)


def test_a_module_in_a_package(load, tmp_path):
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "data.py").write_text(HEADER + returning('{"train": part(), "test": part()}'))
    try:
        assert len(load("", text="user_package.data:load").test) == 10
    finally:
        for name in ("user_package", "user_package.data"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("None", r"it must return a DataSet, or a mapping with 'train' and 'test'.*got NoneType"),
        ("(1, 2)", "got a tuple of 2"),
        ("part()[0]", r"got ndarray uint8 \[10, 4, 6, 3\]"),
        ('{"train": part()}', "the mapping lacks 'test'; expected a DataSet"),
        ("{}", "lacks 'train' and 'test'"),
        (
            '{"train": part(), "test": part(), "search_val": part()}',
            "unknown key 'search_val'; did you mean 'search-val'",
        ),
        ('{"train": part(), "test": part(), 3: 4}', "unknown key 3"),
        ('{"train": part()[0], "test": part()}', r"'train' must be a pair \(images, labels\), got ndarray uint8"),
        (
            '{"train": part(), "test": part(10, (3, 4, 6))}',
            r"'test' images must be uint8 \[N, 4, 6, 3\].*got ndarray uint8 \[10, 3, 4, 6\]",
        ),
        ('{"train": (part()[0] / 255, part()[1]), "test": part()}', r"'train' images .* got ndarray float64 \[10, 4,"),
        ('{"train": ([[1], [1, 2]], [0, 1]), "test": part()}', "'train' images cannot be made an array"),
        ('{"train": (part()[0], part()[1] / 2), "test": part()}', r"whole numbers \[10\], got ndarray float64 \[10\]"),
        ('{"train": (part()[0], [0, 1]), "test": part()}', r"whole numbers \[10\], got a list of 2"),
        ('{"train": part(0), "test": part()}', "'train' has no images"),
        ('{"train": part(), "test": part(), "classes": "ab"}', "'classes' must be a list of names, got 'ab'"),
        ('{"train": part(), "test": part(), "classes": ["a"]}', "has 1 classes, but the search space has 2"),
        ('{"train": part(), "test": part(), "mean": "x"}', "'mean' must be one number per channel, got 'x'"),
        ('{"train": part(), "test": part(), "mean": [0.5]}', r"mean must be 3 finite number\(s\)"),
        ('{"train": part(), "test": part(), "std": [1, 1, 0]}', "std must be above 0"),
        ('{"train": part(), "test": part(), "flip": 1}', "'flip' must be True or False, got 1"),
        ('{"train": part(), "test": part(), "pad": 1.5}', "'pad' must be a whole number of pixels, got 1.5"),
        ('{"train": part(), "test": part(), "pad": True}', "'pad' must be a whole number"),
        ('{"train": part(), "test": part(), "pad": 4}', "pad must be from 0 to 3"),
        ('{"train": (part()[0], np.arange(10) % 3), "test": part()}', "labels must be from 0 to 1 .* got 0 to 2"),
        ('{"train": part(2), "test": part()}', "every class needs at least 2"),
        ('{"train": (part()[0].astype(object), part()[1]), "test": part()}', r"got ndarray object \[10, 4, 6, 3\]"),
        ('{"train": (part()[0], part()[1] * np.nan), "test": part()}', r"got ndarray float64 \[10\]"),
        ('{"train": (i for i in part()), "test": part()}', r"must be a pair \(images, labels\), got generator"),
        ('{"train": ((i for i in part()[0]), part()[1]), "test": part()}', "images must be .* got generator"),
        ("(i for i in part())", "got generator"),
        ("1 / 0", "it raised ZeroDivisionError: division by zero; mend the function"),
        ("exit(3)", "it raised SystemExit: 3; mend the function"),
        ("throw(OddBase('not ours'))", "it raised OddBase: not ours; mend the function"),
        ("throw(GeneratorExit())", "it raised GeneratorExit; mend the function"),
        ("throw(Mute())", "it raised Mute; mend the function"),
        ("{Mute(): 1}", "what it returned raised ValueError: no text; mend the function"),
        ("Odd()", "what it returned raised RuntimeError: no shape; mend the function"),
        ("BrokenMapping()", "what it returned raised OSError: disk; mend the function"),
        ("data_set(Odd(), Odd(), Odd())", "what it returned raised TypeError: .*; mend the function"),
        ("data_set(None, None, None)", "what it returned raised AttributeError: 'NoneType' object has no attribute"),
        ("data_set(*[Images(0)] * 3)", "what it returned raised KeyError: 'image 0'; mend the function"),
    ],
)
def test_invalid_results_are_refused_with_the_function_name(load, expression, message):
    with pytest.raises(DataError, match=message) as error:
        load(ODD + returning(expression))
    assert "user_data:load" in str(error.value)


def test_keyboard_interrupt_propagates(load):
    with pytest.raises(KeyboardInterrupt):
        load(ODD + returning("throw(KeyboardInterrupt())"))


def test_errors_of_later_images_name_their_split(load):
    data = load(ODD + returning("data_set(*[Images(7)] * 3)"))
    for augmentation in (None, data.augmentation):
        x, _ = batch(data.train, range(7), data.preprocessing, augmentation, 0, 0)
        assert x.shape == (7, 3, 4, 6)
        with pytest.raises(DataError, match="data: Images, image 7, raised KeyError: 'image 7'"):
            batch(data.train, range(8), data.preprocessing, augmentation, 0, 0)


def test_missing_functions(load):
    with pytest.raises(DataError, match=r"user_data has no 'lod'; did you mean 'load'"):
        load(returning("None"), text="user_data:lod")
    with pytest.raises(DataError, match="'load' must be a function without arguments, got int"):
        load("load = 3")
    with pytest.raises(DataError, match=r"it raised TypeError: .*argument"):
        load("def load(root):\n    return root\n")


def test_modules_that_cannot_be_imported(load):
    with pytest.raises(DataError, match=r"data function no_such\.module:load: cannot import no_such\.module: Module"):
        load("", text="no_such.module:load")
    with pytest.raises(DataError, match="cannot import user_data: RuntimeError: not today"):
        load("raise RuntimeError('not today')")
    with pytest.raises(DataError, match="cannot import user_data: SystemExit: bye; mend the function"):
        load("raise SystemExit('bye')")


def test_torch_tensors_are_accepted(load):
    pytest.importorskip("torch")
    source = """
import torch

def load():
    images, labels = part(20)
    return {"train": (torch.from_numpy(images), torch.from_numpy(labels)), "test": part()}
"""
    assert len(load(source).train) == 16
