"""Splits, holding out, and split names."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spos_quant.data import ArraySplit, Augmentation, DataSet, FileSplit, Preprocessing, Split, hold_out
from spos_quant.data import split as data_split
from spos_quant.errors import ConfigError, DataError

PREPROCESSING = Preprocessing(size=(4, 6), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)


def array_split(n=10, classes=3):
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 6, 3), dtype=np.uint8)
    return ArraySplit(images, np.arange(n, dtype=np.int64) % classes)


label_arrays = st.lists(st.integers(0, 4), min_size=12, max_size=80).map(lambda values: np.array(values, np.int64))


@given(label_arrays, st.integers(0, 2**40), st.floats(0.05, 0.95))
def test_hold_out_is_disjoint_covers_and_is_stratified(labels, seed, fraction):
    kept, held = hold_out(labels, seed=seed, fraction=fraction)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert kept.dtype == held.dtype == np.int64
    for number in set(labels.tolist()):
        size = int((labels == number).sum())
        count = int((labels[held] == number).sum())
        if size == 1:
            assert count == 0
        else:
            assert 1 <= count <= size - 1
            # The share is exact to within one image.
            assert abs(count - fraction * size) <= 1


@given(label_arrays, st.integers(0, 2**40))
def test_hold_out_depends_on_the_seed_alone(labels, seed):
    one, two = hold_out(labels, seed=seed), hold_out(labels.copy(), seed=seed)
    np.testing.assert_array_equal(one[1], two[1])


def test_other_seeds_hold_out_other_images():
    labels = np.zeros(100, np.int64)
    chosen = [hold_out(labels, seed=seed)[1] for seed in range(40)]
    assert len({tuple(held) for held in chosen}) == 40
    # Almost every image is held out by some seed.
    assert len(np.unique(np.concatenate(chosen))) > 95
    assert {len(held) for held in chosen} == {20}


def test_class_numbers_do_not_change_which_images_are_held_out():
    labels = np.arange(60, dtype=np.int64) % 3
    renamed = np.array([7, 2, 5], np.int64)[labels]
    np.testing.assert_array_equal(hold_out(labels, seed=4)[1], hold_out(renamed, seed=4)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_hold_out_refuses_other_shares(fraction):
    with pytest.raises(ConfigError, match="must be above 0 and below 1"):
        hold_out(np.zeros(10, np.int64), seed=0, fraction=fraction)


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2]])
def test_hold_out_needs_two_of_a_class(labels):
    with pytest.raises(DataError, match="every class needs at least 2 training images"):
        hold_out(np.array(labels, np.int64), seed=0)


def test_array_split():
    split = array_split()
    assert isinstance(split, Split)
    assert len(split) == 10
    np.testing.assert_array_equal(split.image(3), split.images[3])
    np.testing.assert_array_equal(split.raw(3), split.images[3])
    part = split.subset([4, 1])
    assert part.labels.tolist() == [1, 1]
    np.testing.assert_array_equal(part.image(0), split.images[4])
    assert len(split.subset([])) == 0


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 6, 3)), np.zeros(2, np.int64), r"images must be uint8 .*, got float64 \[2, 4, 6, 3\]"),
        (np.zeros((2, 4, 6), np.uint8), np.zeros(2, np.int64), r"images must be uint8 .*, got uint8 \[2, 4, 6\]"),
        (np.zeros((2, 4, 6, 3), np.uint8), np.zeros(2, np.int32), "labels must be int64"),
        (np.zeros((2, 4, 6, 3), np.uint8), np.zeros((2, 1), np.int64), "labels must be int64"),
        (np.zeros((2, 4, 6, 3), np.uint8), np.zeros(3, np.int64), "2 images, but 3 labels"),
    ],
)
def test_array_split_refuses(images, labels, message):
    with pytest.raises(DataError, match=message):
        ArraySplit(images, labels)


def test_file_split(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    paths = []
    for number, image in enumerate(pixels):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image).save(paths[-1])
    split = FileSplit(tuple(paths), np.array([0, 1, 0]), PREPROCESSING)
    assert isinstance(split, Split)
    assert len(split) == 3
    np.testing.assert_array_equal(split.raw(1), pixels[1])
    np.testing.assert_array_equal(split.image(1), PREPROCESSING.from_pil(Image.fromarray(pixels[1])))
    part = split.subset(np.array([2, 1]))
    assert part.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(part.raw(0), pixels[2])


def test_file_split_of_one_channel(tmp_path):
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "red.png")
    grey = Preprocessing(size=(2, 2), channels=1, mean=(0.5,), std=(0.5,))
    split = FileSplit((str(tmp_path / "red.png"),), np.zeros(1, np.int64), grey)
    assert split.raw(0).shape == (4, 5, 1)
    # Red has 0.299 of the luma of white.
    assert split.image(0).ravel().tolist() == [76] * 4


def test_file_split_names_an_unreadable_image(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    split = FileSplit((str(tmp_path / "broken.jpg"),), np.zeros(1, np.int64), PREPROCESSING)
    for read in (split.image, split.raw):
        with pytest.raises(DataError, match=r"broken\.jpg cannot be read"):
            read(0)
    with pytest.raises(DataError, match="1 images, but 2 labels"):
        FileSplit(split.paths, np.zeros(2, np.int64), PREPROCESSING)


def test_data_set_splits_by_name():
    split, test = array_split(30), array_split(5)
    data = DataSet.holding_out(
        name="mine",
        classes=("a", "b", "c"),
        preprocessing=PREPROCESSING,
        augmentation=Augmentation(size=(4, 6)),
        train=split,
        test=test,
        seed=1,
    )
    assert data.split("train") is data.train
    assert data.split("search-val") is data.search_val
    assert {image.tobytes() for image in data.split("test").images} == {image.tobytes() for image in test.images}
    images = {image.tobytes() for image in split.images}
    train = {image.tobytes() for image in data.train.images}
    held = {image.tobytes() for image in data.search_val.images}
    assert train | held == images
    assert not train & held
    assert np.bincount(data.search_val.labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize(("name", "guess"), [("search_val", "search-val"), ("tests", "test")])
def test_unknown_split(name, guess):
    data = DataSet("x", ("a",), PREPROCESSING, Augmentation(size=(4, 6)), *[array_split()] * 3)
    with pytest.raises(ConfigError, match=f"unknown split '{name}'; did you mean '{guess}'"):
        data.split(name)


def test_small_images_are_cached_and_the_cache_is_not_copied(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((2, 2, 3), 80 * i, np.uint8)).save(path)
    split = FileSplit(tuple(paths), np.zeros(3, np.int64), PREPROCESSING)
    first = split.image(1)
    monkeypatch.setattr(data_split, "read_image", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(split.image(1), first)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        copy.deepcopy(split).image(1)


def test_images_that_exceed_the_cache_size_are_decoded_at_every_access(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
    split = FileSplit((str(path),), np.zeros(1, np.int64), PREPROCESSING)
    monkeypatch.setattr(data_split, "KEPT_BYTES", split.image(0).size - 1)
    other = split.subset([0])
    other.image(0)
    Image.fromarray(np.full((2, 2, 3), 255, np.uint8)).save(path)
    assert other.image(0).min() == 255
    assert split.image(0).max() == 0
