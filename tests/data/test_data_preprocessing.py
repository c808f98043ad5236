"""Preprocessing: size, normalization, JSON form, and reading image files."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from spos_quant.data import Preprocessing, preprocess_files
from spos_quant.errors import DataError

GREY = Preprocessing(size=(4, 6), channels=1, mean=(0.5,), std=(0.5,))
COLOUR = Preprocessing(size=(4, 6), channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.5))


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine would fail this health check
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5).map(lambda shape: (*shape, 3))))
def test_normalise_agrees_with_the_formula(pixels):
    out = COLOUR.normalise(pixels)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    for channel, (mean, std) in enumerate(zip(COLOUR.mean, COLOUR.std, strict=True)):
        expected = (pixels[..., channel].astype(float) / 255 - mean) / std
        np.testing.assert_allclose(out[..., channel, :, :], expected, atol=1e-6)


def test_normalise_of_known_values():
    out = GREY.normalise(np.array([0, 255], dtype=np.uint8).reshape(1, 2, 1))
    np.testing.assert_allclose(out, [[[-1, 1]]], atol=1e-7)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 6, 3), np.float32), np.zeros((4, 6, 1), np.uint8), np.zeros((6, 3), np.uint8)]
)
def test_normalise_refuses_other_arrays(pixels):
    with pytest.raises(DataError, match=r"takes uint8 \[\.\.\., height, width, 3\], got (float32|uint8) \["):
        COLOUR.normalise(pixels)


@pytest.mark.parametrize("preprocessing", [GREY, COLOUR])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_from_pil_takes_every_8_and_16_bit_mode(preprocessing, mode):
    pixels = preprocessing.from_pil(Image.new(mode, (9, 7)))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 6, preprocessing.channels)
    assert preprocessing.input == (preprocessing.channels, 4, 6)


def test_from_pil_does_not_change_an_image_of_the_right_size():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(COLOUR.from_pil(Image.fromarray(pixels)), pixels)


def test_16_bit_grey_keeps_its_upper_byte():
    values = np.array([[0, 256, 0x7FFF], [0x8000, 0xFF00, 0xFFFF]], dtype=np.uint16)
    preprocessing = Preprocessing(size=(2, 3), channels=1, mean=(0.5,), std=(0.5,))
    for image in (Image.fromarray(values), Image.fromarray(values.astype(np.int32))):
        assert preprocessing.from_pil(image)[:, :, 0].tolist() == [[0, 1, 127], [128, 255, 255]]


def test_palette_with_transparency_is_converted_without_a_warning():
    image = Image.new("P", (6, 4))
    image.info["transparency"] = b"\x00\x80"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert COLOUR.from_pil(image).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (6, 4)), "floating-point"),
        (Image.new("I", (6, 4), 70_000), "more than 16 bits"),
        (Image.new("I", (6, 4), -1), "more than 16 bits"),
    ],
)
def test_from_pil_refuses_values_without_a_known_white(image, message):
    with pytest.raises(DataError, match=message):
        GREY.from_pil(image)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (33, 61), (16, 16), (300, 17)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_and_centre_crop_agree_with_torchvision(width, height, channels):
    transforms = pytest.importorskip("torchvision.transforms")
    shape = (height, width) if channels == 1 else (height, width, 3)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    reference = transforms.Compose([transforms.Resize(16), transforms.CenterCrop((14, 11))])
    ours = Preprocessing((14, 11), channels, (0.5,) * channels, (0.5,) * channels, resize=16)
    np.testing.assert_array_equal(ours.from_pil(image), np.asarray(reference(image)).reshape(14, 11, channels))


def test_without_resize_the_aspect_ratio_is_not_preserved():
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, 6:] = 200
    out = COLOUR.from_pil(Image.fromarray(pixels))
    assert out[:, 0].max() == 0
    assert out[:, -1].min() == 200


@given(
    st.builds(
        Preprocessing,
        size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
        channels=st.just(3),
        mean=st.tuples(*[st.floats(-5, 5)] * 3),
        std=st.tuples(*[st.floats(1e-3, 5)] * 3),
        resize=st.none() | st.integers(300, 400),
    )
)
def test_json_round_trip(preprocessing):
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 4}, "size must be a list"),
        ({"size": [4]}, "size must be a height and a width"),
        ({"size": [4, 6.0]}, "size must be a whole number, got 6.0"),
        ({"size": [0, 6]}, r"size must be a height and a width of 1 to 4096, got \[0, 6\]"),
        ({"size": [1_000_000, 6]}, r"size must be a height and a width of 1 to 4096, got \[1000000, 6\]"),
        ({"resize": 1_000_000}, "resize must be at most 8192, got 1000000"),
        ({"mean": [10**400, 0, 0]}, "mean must be a number, got 1000"),
        ({"channels": True}, "channels must be a whole number"),
        ({"channels": "1"}, "channels must be a whole number"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        ({"mean": 0.5}, "mean must be a list"),
        ({"mean": ["0.5"]}, "mean must be a number, got '0.5'"),
        ({"mean": [0.5, 0.5]}, r"mean must be 1 finite number\(s\)"),
        ({"mean": [float("nan")]}, "mean must be 1 finite"),
        ({"std": [0]}, "std must be above 0"),
        ({"std": [float("inf")]}, "std must be 1 finite"),
        ({"resize": 5}, "resize 5 is smaller than the crop"),
        ({"resize": "8"}, "resize must be a whole number"),
        ({"sizes": [4, 6]}, "unknown key 'sizes'; did you mean 'size'"),
    ],
)
def test_from_dict_refuses(change, message):
    with pytest.raises(DataError, match=message):
        Preprocessing.from_dict({**GREY.to_dict(), **change})


def test_from_dict_refuses_missing_keys_and_other_types():
    values = GREY.to_dict()
    del values["std"], values["resize"]
    with pytest.raises(DataError, match=r"lacks the key\(s\) std, resize"):
        Preprocessing.from_dict(values)
    with pytest.raises(DataError, match="must be a mapping of size, channels, mean, std, resize, got list"):
        Preprocessing.from_dict([])


def test_preprocess_files(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    paths = [tmp_path / "a.png", str(tmp_path / "b.bmp")]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    np.testing.assert_array_equal(preprocess_files(paths, COLOUR), COLOUR.normalise(images))
    assert preprocess_files([], COLOUR).shape == (0, 3, 4, 6)


def test_an_unreadable_file_is_named(tmp_path):
    bad = tmp_path / "bad.png"
    with pytest.raises(DataError, match=r"bad\.png: no such file"):
        preprocess_files([bad], GREY)
    bad.write_bytes(b"this is no image")
    with pytest.raises(DataError, match=r"image .*bad\.png cannot be read: .*; replace or remove the file"):
        preprocess_files([bad], GREY)
    with pytest.raises(DataError, match=r"image .* cannot be read: .*[Dd]irectory"):
        preprocess_files([tmp_path], GREY)
    floating = tmp_path / "float.tif"
    Image.new("F", (6, 4)).save(floating)
    with pytest.raises(DataError, match=r"float\.tif cannot be used: its pixels are floating-point"):
        preprocess_files([floating], GREY)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".ppm", ".tif", ".webp", ".gif"])
def test_truncated_files_either_decode_or_are_named(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    messages = []
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        try:
            preprocess_files([path], COLOUR)
        except DataError as error:
            messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)
