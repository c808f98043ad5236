"""Augmentation: crops, flips and color jitter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from spos_quant.data import Augmentation
from spos_quant.data.augmentation import _color_jitter
from spos_quant.errors import ConfigError


def random_image(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (height, width, channels), dtype=np.uint8)


@st.composite
def augmentations(draw):
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    crop = draw(st.booleans())
    low, high = sorted(draw(st.tuples(st.floats(0.05, 1), st.floats(0.05, 1))))
    return Augmentation(
        size=size,
        pad=0 if crop else draw(st.integers(0, min(size) - 1)),
        flip=draw(st.booleans()),
        scale=(low, high) if crop else None,
        jitter=draw(st.sampled_from([0.0, 0.4, 1.0])),
    )


@given(augmentations(), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 2**32))
def test_shape_type_and_determinism(augmentation, height, width, channels, seed):
    raw = random_image(height, width, channels)
    before = raw.copy()
    one = augmentation.apply(raw, np.random.default_rng(seed))
    two = augmentation.apply(raw, np.random.default_rng(seed))
    assert one.shape == (*augmentation.size, channels)
    assert one.dtype == np.uint8
    assert one.flags.c_contiguous
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(raw, before)


@given(st.integers(0, 2**32), st.sampled_from([1, 3]))
def test_flip_keeps_every_pixel(seed, channels):
    raw = random_image(5, 7, channels)
    out = Augmentation(size=(5, 7), flip=True).apply(raw, np.random.default_rng(seed))
    assert np.array_equal(out, raw) or np.array_equal(out, raw[:, ::-1])
    np.testing.assert_array_equal(np.sort(out, axis=None), np.sort(raw, axis=None))


def test_half_of_the_images_are_flipped():
    raw = random_image(2, 2, 1)
    augmentation = Augmentation(size=(2, 2), flip=True)
    flipped = [not np.array_equal(augmentation.apply(raw, np.random.default_rng(seed)), raw) for seed in range(2000)]
    assert 0.45 < np.mean(flipped) < 0.55


@settings(max_examples=50)
@given(st.data(), st.integers(0, 2**32))
def test_pad_crops_the_padded_image(data, seed):
    height, width = data.draw(st.tuples(st.integers(2, 8), st.integers(2, 8)))
    pad = data.draw(st.integers(1, min(height, width) - 1))
    raw = random_image(height, width, 3)
    out = Augmentation(size=(height, width), pad=pad).apply(raw, np.random.default_rng(seed))
    padded = np.pad(raw, ((pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(0, 1))
    assert any(
        np.array_equal(out, windows[top, left].transpose(1, 2, 0))
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    )


def test_every_crop_is_equally_likely():
    raw = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)
    augmentation = Augmentation(size=(3, 3), pad=1)
    rng = np.random.default_rng(0)
    counts = {}
    for _ in range(4500):
        key = augmentation.apply(raw, rng).tobytes()
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 9
    assert min(counts.values()) > 400
    assert max(counts.values()) < 600


def test_no_augmentation_returns_the_image():
    raw = random_image(5, 7, 3)
    np.testing.assert_array_equal(Augmentation(size=(5, 7)).apply(raw, np.random.default_rng(0)), raw)


def test_random_resized_crop_keeps_to_scale_and_ratio():
    augmentation = Augmentation(size=(8, 8), scale=(0.2, 0.5), ratio=(0.5, 2.0))
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(500):
        top, left, height, width = augmentation._window(80, 120, augmentation.scale, rng)
        assert 0 <= top <= 80 - height
        assert 0 <= left <= 120 - width
        assert 0.45 < width / height < 2.2
        shares.append(height * width / (80 * 120))
    assert 0.19 < min(shares) < 0.25
    assert 0.45 < max(shares) < 0.51


@pytest.mark.parametrize(("height", "width"), [(2, 500), (500, 2), (1, 1)])
def test_random_resized_crop_of_extreme_images(height, width):
    augmentation = Augmentation(size=(8, 8), scale=(0.9, 1.0))
    assert augmentation.full_picture
    assert augmentation.apply(random_image(height, width, 3), np.random.default_rng(0)).shape == (8, 8, 3)
    top, left, rows, columns = augmentation._window(height, width, augmentation.scale, np.random.default_rng(0))
    assert rows <= height
    assert columns <= width
    # The fallback is a center crop.
    assert (top, left) == ((height - rows) // 2, (width - columns) // 2)


def test_a_crop_of_a_constant_image_is_constant():
    raw = np.full((30, 40, 3), 77, np.uint8)
    out = Augmentation(size=(8, 8), scale=(0.08, 1.0), flip=True).apply(raw, np.random.default_rng(0))
    assert (out == 77).all()


def test_jitter_of_a_constant_grey_image_changes_brightness_only():
    raw = np.full((4, 4, 3), 100, np.uint8)
    augmentation = Augmentation(size=(4, 4), jitter=0.4)
    values = []
    for seed in range(300):
        out = augmentation.apply(raw, np.random.default_rng(seed))
        # Contrast changes around the mean, saturation around grey: a constant grey image stays constant and grey.
        assert out.max() - out.min() <= 1
        values.append(int(out.mean()))
    assert 59 <= min(values) < 65
    assert 135 < max(values) <= 141


@pytest.mark.parametrize("factors", [(1.3, 1, 1), (1, 0.6, 1), (1, 1.3, 1), (1, 1, 0), (1, 1, 1.3), (0.8, 1.2, 0.7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_agrees_with_pil(factors, channels):
    # Values far from 0 and 255, because PIL clips after each step.
    raw = np.random.default_rng(0).integers(90, 150, (9, 9, channels), dtype=np.uint8)
    image = Image.fromarray(raw if channels == 3 else raw[:, :, 0])
    image = ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(factors[0])).enhance(factors[1])
    if channels == 3:
        image = ImageEnhance.Color(image).enhance(factors[2])
    out = _color_jitter(raw, np.array(factors, np.float32))
    expected = np.asarray(image, dtype=int).reshape(out.shape)
    # PIL rounds down after each step.
    assert np.abs(out.astype(int) - expected).max() <= 3


def test_jitter_of_one_channel_keeps_the_order_of_values():
    raw = np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4, 1)
    out = Augmentation(size=(4, 4), jitter=0.4).apply(raw, np.random.default_rng(3)).ravel()
    assert (np.diff(out.astype(int)) >= 0).all()
    assert not np.array_equal(out, raw.ravel())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 4)}, "size must be a positive"),
        ({"pad": 4}, "pad must be from 0 to 3 pixels, got 4"),
        ({"pad": -1}, "pad must be from 0 to 3"),
        ({"jitter": 1.5}, "jitter must be from 0 to 1"),
        ({"jitter": float("nan")}, "jitter must be from 0 to 1"),
        ({"scale": (0.0, 1.0)}, r"scale must be a least and greatest in \(0, 1\]"),
        ({"scale": (0.5, 0.2)}, "scale must be"),
        ({"ratio": (2.0, 1.0)}, "ratio must be a positive least and greatest"),
        ({"scale": (0.5, 1.0), "pad": 1}, "give one of them"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**{"size": (4, 6), **settings})
