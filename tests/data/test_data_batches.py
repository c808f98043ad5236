"""Batches depend only on (seed, epoch, index)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spos_quant.data import ArraySplit, Augmentation, FileSplit, Preprocessing, batch, example, order
from spos_quant.streams import Stream, generator

PREPROCESSING = Preprocessing(size=(6, 6), channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
SPLIT = ArraySplit(
    np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8), np.arange(12, dtype=np.int64) % 5
)
AUGMENTATION = Augmentation(size=(6, 6), pad=2, flip=True)


@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=8),
    st.integers(0, 2**40),
    st.integers(0, 1000),
    st.sampled_from([AUGMENTATION, None]),
)
def test_a_batch_equals_its_examples(indices, seed, epoch, augmentation):
    images, labels = batch(SPLIT, indices, PREPROCESSING, augmentation, seed, epoch)
    assert images.dtype == np.float32
    assert images.shape == (len(indices), 3, 6, 6)
    assert labels.dtype == np.int64
    assert labels.tolist() == [index % 5 for index in indices]
    for image, index in zip(images, indices, strict=True):
        np.testing.assert_array_equal(image, example(SPLIT, index, PREPROCESSING, augmentation, seed, epoch))


def test_examples_without_augmentation_are_the_images():
    for index in range(3):
        expected = PREPROCESSING.normalise(SPLIT.images[index])
        np.testing.assert_array_equal(example(SPLIT, index, PREPROCESSING, None, 7, 3), expected)


def test_seed_epoch_and_index_each_change_the_augmentation():
    same = ArraySplit(np.repeat(SPLIT.images[:1], 12, axis=0), SPLIT.labels)

    def variants(calls):
        return len({example(same, index, PREPROCESSING, AUGMENTATION, s, e).tobytes() for s, e, index in calls})

    assert variants((0, 0, index) for index in range(12)) > 8
    assert variants((0, epoch, 0) for epoch in range(12)) > 8
    assert variants((seed, 0, 0) for seed in range(12)) > 8


def test_an_example_uses_the_documented_random_stream():
    expected = AUGMENTATION.apply(SPLIT.images[5], generator(Stream.AUGMENTATION, 3, 2, 5))
    np.testing.assert_array_equal(
        example(SPLIT, 5, PREPROCESSING, AUGMENTATION, seed=3, epoch=2), PREPROCESSING.normalise(expected)
    )


def test_crops_use_the_full_size_image(tmp_path):
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[::2] = 255
    Image.fromarray(pixels).save(tmp_path / "stripes.png")
    split = FileSplit((str(tmp_path / "stripes.png"),), np.zeros(1, np.int64), PREPROCESSING)
    tiny = Augmentation(size=(6, 6), scale=(0.01, 0.01), ratio=(1.0, 1.0))
    # 1 % of the area is a crop of 6 x 6 with sharp stripes; the resized image has no sharp stripes.
    values = np.unique(example(split, 0, PREPROCESSING, tiny, 0, 0)[0])
    np.testing.assert_allclose(values, [-2, 3], atol=1e-6)
    assert np.unique(example(split, 0, PREPROCESSING, None, 0, 0)[0]).max() < 1


def test_an_empty_batch():
    images, labels = batch(SPLIT, [], PREPROCESSING, AUGMENTATION, 0, 0)
    assert images.shape == (0, 3, 6, 6)
    assert labels.shape == (0,)


def test_a_missing_image_is_an_error():
    with pytest.raises(IndexError):
        batch(SPLIT, [12], PREPROCESSING, None, 0, 0)


@given(st.integers(0, 200), st.integers(0, 2**40), st.integers(0, 2**31))
def test_order_is_a_permutation(n, seed, epoch):
    one = order(n, seed, epoch)
    assert one.dtype == np.int64
    assert sorted(one.tolist()) == list(range(n))
    np.testing.assert_array_equal(one, order(n, seed, epoch))


def test_orders_differ_between_epochs_and_seeds():
    assert len({tuple(order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}) == 25
