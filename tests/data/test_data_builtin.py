"""The data sets without files: digits and fake."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from spos_quant.data import batch, load_data
from spos_quant.errors import DataError


def digits(seed=0):
    return load_data("digits", input=(1, 8, 8), classes=10, seed=seed)


def test_digits_splits_cover_the_source_once():
    data = digits()
    parts = [data.split(name) for name in ("train", "search-val", "test")]
    rows = np.concatenate([part.images.reshape(len(part), -1) for part in parts])
    source = load_digits()
    expected = np.round(source.data / 16 * 255).astype(np.uint8)
    np.testing.assert_array_equal(np.sort(rows.view("V64"), axis=0), np.sort(expected.view("V64"), axis=0))
    assert sum(map(len, parts)) == 1797
    assert 350 <= len(parts[2]) <= 370
    assert 280 <= len(parts[1]) <= 295
    for part in parts:
        shares = np.bincount(part.labels, minlength=10) / len(part)
        np.testing.assert_allclose(shares, np.bincount(source.target) / 1797, atol=0.01)


def test_digits_labels_match_their_images():
    source = load_digits()
    known = {
        row.tobytes(): label
        for row, label in zip(np.round(source.data / 16 * 255).astype(np.uint8), source.target, strict=True)
    }
    data = digits()
    for part in (data.train, data.search_val, data.test):
        assert [known[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_digits_constants_are_those_of_the_training_images():
    data = digits()
    pixels = np.concatenate([data.train.images, data.search_val.images]) / 255
    assert data.preprocessing.mean == (round(float(pixels.mean()), 6),)
    assert data.preprocessing.std == (round(float(pixels.std()), 6),)


def test_digits_test_split_is_the_same_for_every_seed():
    one, two = digits(0), digits(1)
    np.testing.assert_array_equal(one.test.images, two.test.images)
    assert not np.array_equal(one.search_val.images, two.search_val.images)
    np.testing.assert_array_equal(one.search_val.images, digits(0).search_val.images)
    assert (one.augmentation.pad, one.augmentation.flip) == (1, False)
    assert one.classes == tuple("0123456789")


def test_digits_refuse_a_root_and_other_inputs():
    with pytest.raises(DataError, match="write digits, not digits:/x"):
        load_data("digits:/x", input=(1, 8, 8), classes=10, seed=0)
    with pytest.raises(DataError, match=r"has images of 1x8x8 .*takes 3x32x32"):
        load_data("digits", input=(3, 32, 32), classes=10, seed=0)
    with pytest.raises(DataError, match="has 10 classes, but the search space has 5"):
        load_data("digits", input=(1, 8, 8), classes=5, seed=0)


@pytest.mark.parametrize(
    ("shape", "classes", "train", "test"),
    [
        ((3, 32, 32), 10, 500, 200),
        ((1, 8, 8), 3, 150, 60),
        ((3, 5, 9), 60, 2000, 500),
        ((3, 1, 1), 2, 100, 40),
        ((1, 4, 4), 1200, 2400, 1200),
    ],
)
def test_fake_sizes(shape, classes, train, test):
    data = load_data("fake", input=shape, classes=classes, seed=0)
    assert len(data.train) + len(data.search_val) == train
    assert len(data.test) == test
    assert len(data.classes) == classes
    for part in (data.train, data.test, data.search_val):
        assert set(part.labels.tolist()) == set(range(classes))
    images, _ = batch(data.train, [0, 1], data.preprocessing, data.augmentation, 0, 0)
    assert images.shape == (2, *shape)


def test_fake_is_learnable_but_not_constant():
    data = load_data("fake", input=(3, 32, 32), classes=10, seed=0)
    train, labels = batch(data.train, range(len(data.train)), data.preprocessing, data.augmentation, 0, 0)
    test, truth = batch(data.test, range(len(data.test)), data.preprocessing, None, 0, 0)
    model = NearestCentroid().fit(train.reshape(len(train), -1), labels)
    assert model.score(test.reshape(len(test), -1), truth) > 0.6
    everything = np.concatenate([data.train.images, data.search_val.images, data.test.images])
    assert len(np.unique(everything.reshape(len(everything), -1), axis=0)) == 700
    assert abs(train.mean()) < 0.6
    assert 0.6 < train.std() < 1.4


def test_fake_images_do_not_depend_on_the_seed():
    one, two = (load_data("fake", input=(1, 8, 8), classes=4, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.test.images, two.test.images)
    images = [sorted(image.tobytes() for s in (d.train, d.search_val) for image in s.images) for d in (one, two)]
    assert images[0] == images[1]
    assert not np.array_equal(one.train.images, two.train.images)


def test_large_fake_images_are_generated_on_demand_and_deterministic():
    data = load_data("fake", input=(3, 224, 224), classes=20, seed=0)
    assert not hasattr(data.train, "images")
    image = data.train.image(5)
    assert image.shape == (224, 224, 3)
    np.testing.assert_array_equal(image, data.train.image(5))
    np.testing.assert_array_equal(image, data.train.subset([5, 6]).raw(0))
    assert not np.array_equal(image, data.train.image(6))


def test_fake_refuses_a_root_and_two_channels():
    with pytest.raises(DataError, match="write fake, not fake:here"):
        load_data("fake:here", input=(3, 8, 8), classes=2, seed=0)
    with pytest.raises(DataError, match="channels must be 1"):
        load_data("fake", input=(2, 8, 8), classes=2, seed=0)
