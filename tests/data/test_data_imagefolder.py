"""Folders of images."""

import numpy as np
import pytest
from PIL import Image

from spos_quant.data import batch, load_data
from spos_quant.errors import DataError


def save(path, value=128, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def fill(root, part, classes=("cat", "dog"), count=10):
    for name in classes:
        for number in range(count):
            save(root / part / name / f"{number:02}.png", value=number)


def load(root, shape=(3, 8, 8), classes=2, seed=0):
    return load_data(f"imagefolder:{root}", input=shape, classes=classes, seed=seed)


def files(split):
    return {path.rsplit("/", 3)[-3] + "/" + "/".join(path.rsplit("/", 2)[-2:]) for path in split.paths}


@pytest.mark.parametrize(
    ("parts", "test"),
    [(("train", "test"), "test"), (("train", "val"), "val"), (("train", "val", "test"), "test")],
)
def test_the_test_split_is_test_else_val(tmp_path, parts, test):
    for part in parts:
        fill(tmp_path, part)
    data = load(tmp_path)
    assert {path.split("/")[0] for path in files(data.test)} == {test}
    assert len(data.test) == 20
    assert files(data.train) | files(data.search_val) == {
        f"train/{name}/{number:02}.png" for name in ("cat", "dog") for number in range(10)
    }
    assert (len(data.train), len(data.search_val)) == (16, 4)
    assert data.classes == ("cat", "dog")
    assert [("cat", "dog")[label] for label in data.train.labels] == [p.split("/")[-2] for p in data.train.paths]


def test_without_other_folders_train_is_split_in_three(tmp_path):
    fill(tmp_path, "train", count=20)
    data = load(tmp_path, seed=3)
    parts = [files(split) for split in (data.train, data.search_val, data.test)]
    assert [len(part) for part in parts] == [26, 6, 8]
    assert len(set.union(*parts)) == 40
    assert np.bincount(data.test.labels).tolist() == [4, 4]
    assert files(load(tmp_path, seed=4).test) != parts[2]
    assert files(load(tmp_path, seed=3).test) == parts[2]


def test_files_are_found_at_any_depth_and_hidden_or_other_files_are_ignored(tmp_path):
    for name in ("a.JPG", "b.jpeg", "c.bmp", "d.webp", "e.ppm", "f.tif", "g.TIFF", "h.gif", "images/i.png"):
        save(tmp_path / "train" / "x" / name)
    save(tmp_path / "train" / "x" / ".hidden.png")
    save(tmp_path / "train" / "x" / ".cache" / "j.png")
    (tmp_path / "train" / "x" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / "train" / "readme.md").write_text("no class")
    fill(tmp_path, "test", classes=["x"], count=1)
    data = load(tmp_path, classes=1)
    found = {path.rsplit("/train/x/")[-1] for split in (data.train, data.search_val) for path in split.paths}
    assert found == {
        "a.JPG", "b.jpeg", "c.bmp", "d.webp", "e.ppm", "f.tif", "g.TIFF", "h.gif", "images/i.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "resize", "pad", "crop"),
    [
        ((3, 8, 8), None, 1, False),
        ((3, 64, 48), None, 8, False),
        ((3, 64, 4), None, 3, False),
        ((1, 80, 80), None, 0, True),
        ((3, 96, 96), 110, 0, True),
        ((3, 224, 224), 256, 0, True),
        ((3, 96, 112), 128, 0, True),
    ],
)
def test_settings_by_size(tmp_path, shape, resize, pad, crop):
    fill(tmp_path, "train", count=3)
    data = load(tmp_path, shape=shape)
    assert data.preprocessing.input == shape
    assert data.preprocessing.resize == resize
    assert data.augmentation.pad == pad
    assert data.augmentation.flip
    assert data.augmentation.scale == ((0.08, 1.0) if crop else None)
    assert data.augmentation.jitter == (0.4 if crop else 0)
    expected = ((0.5,), (0.5,)) if shape[0] == 1 else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (data.preprocessing.mean, data.preprocessing.std) == expected
    for augmentation in (data.augmentation, None):
        images, labels = batch(data.train, [0, 1], data.preprocessing, augmentation, 0, 0)
        assert images.shape == (2, *shape)
        assert labels.tolist() == data.train.labels[:2].tolist()


def test_home_is_expanded(tmp_path, monkeypatch):
    fill(tmp_path / "photos", "train", count=3)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/photos").name == "imagefolder:~/photos"


def test_missing_folders(tmp_path):
    with pytest.raises(DataError, match=r"needs its folder: imagefolder:ROOT"):
        load_data("imagefolder", input=(3, 8, 8), classes=2, seed=0)
    with pytest.raises(DataError, match=r"no folder .*nowhere$"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no folder .*train; expected a folder per class"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"train is empty; expected a folder per class"):
        load(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path):
    fill(tmp_path, "train")
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(DataError, match=r"class folder .*train/emu has no images"):
        load(tmp_path, classes=3)


def test_an_empty_test_folder_is_an_error(tmp_path):
    fill(tmp_path, "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"test is empty"):
        load(tmp_path)


def test_another_number_of_classes(tmp_path):
    fill(tmp_path, "train", classes=[f"c{number:02}" for number in range(10)], count=1)
    message = r"has 10 class folders \(c00, c01, .*, c07, \.\.\.\), but the search space has 3 classes"
    with pytest.raises(DataError, match=message):
        load(tmp_path, classes=3)


@pytest.mark.parametrize("part", ["val", "test"])
def test_classes_that_differ_from_train(tmp_path, part):
    fill(tmp_path, "train")
    fill(tmp_path, part, classes=("cat", "emu"), count=1)
    with pytest.raises(DataError, match=rf"{part} must have the classes of train/, but lacks dog and has emu more"):
        load(tmp_path)


def test_two_channels(tmp_path):
    fill(tmp_path, "train")
    with pytest.raises(DataError, match="gives 1 or 3 channels, but the search space takes 2"):
        load(tmp_path, shape=(2, 8, 8))


def test_too_few_images_to_hold_out(tmp_path):
    fill(tmp_path, "train", count=1)
    fill(tmp_path, "test", count=1)
    with pytest.raises(DataError, match="every class needs at least 2 training images"):
        load(tmp_path)


def test_an_unreadable_image_is_named(tmp_path):
    fill(tmp_path, "train")
    fill(tmp_path, "test", count=2)
    (tmp_path / "test" / "dog" / "01.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(DataError, match=r"test/dog/01\.png cannot be read"):
        data = load(tmp_path)
        batch(data.test, range(4), data.preprocessing, None, 0, 0)
