"""CIFAR-10's binary files, archive and download, with small files of the same format."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from spos_quant.data import cifar10, load_data
from spos_quant.errors import DataError

NAMES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def records(name, n=20):
    """n records with random pixels that differ between files."""
    rng = np.random.default_rng(len(name) + NAMES.index(name))
    values = rng.integers(0, 256, (n, 3073), dtype=np.uint8)
    values[:, 0] = np.arange(n) % 10
    return values


def write_folder(root):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(records(name).tobytes())
    return folder


def write_archive(path, *, leave_out=(), extra=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        members = [(f"cifar-10-batches-bin/{name}", records(name).tobytes()) for name in NAMES if name not in leave_out]
        for name, content in [*members, *extra]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def load(text, seed=0):
    return load_data(text, input=(3, 32, 32), classes=10, seed=seed)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A separate cache per test, without network access."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar10, "URL", (tmp_path / "away" / "cifar-10-binary.tar.gz").as_uri())
    return tmp_path / "cache" / "spos_quant" / "cifar10"


def test_folder(tmp_path):
    folder = write_folder(tmp_path / "root")
    data = load(f"cifar10:{tmp_path / 'root'}")
    assert (len(data.train), len(data.search_val), len(data.test)) == (80, 20, 20)
    assert data.classes[3] == "cat"
    assert (data.augmentation.pad, data.augmentation.flip) == (4, True)
    # Record 7 of the test file, by hand: red plane first, rows of 32.
    record = records("test_batch.bin")[7]
    planes = data.test.images.transpose(0, 3, 1, 2).reshape(20, -1)
    (index,) = np.flatnonzero((planes == record[1:]).all(1))
    assert data.test.labels[index] == record[0]
    assert data.test.images[index, 5, 9].tolist() == [record[1 + channel * 1024 + 5 * 32 + 9] for channel in range(3)]
    images = {image.transpose(2, 0, 1).tobytes() for s in (data.train, data.search_val) for image in s.images}
    assert images == {record[1:].tobytes() for name in NAMES[:5] for record in records(name)}
    # ROOT may be the folder of .bin files itself.
    np.testing.assert_array_equal(load(f"cifar10:{folder}").train.images, data.train.images)


def test_archive_is_unpacked_beside_itself(tmp_path, monkeypatch):
    root = tmp_path / "root"
    outside = [("../escaped.txt", b"x"), ("cifar-10-batches-bin/readme.html", b"x")]
    monkeypatch.setattr(cifar10, "MD5", write_archive(root / "cifar-10-binary.tar.gz", extra=outside))
    data = load(f"cifar10:{root}")
    assert len(data.test) == 20
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-bin", "cifar-10-binary.tar.gz"]
    assert sorted(path.name for path in (root / "cifar-10-batches-bin").iterdir()) == NAMES
    assert not list(tmp_path.rglob("escaped.txt"))
    # The archive is not needed any more.
    (root / "cifar-10-binary.tar.gz").unlink()
    np.testing.assert_array_equal(load(f"cifar10:{root}").train.images, data.train.images)


def test_download_to_the_cache(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(cifar10, "MD5", write_archive(tmp_path / "away" / "cifar-10-binary.tar.gz"))
    data = load("cifar10")
    assert len(data.train) == 80
    assert sorted(path.name for path in cache.iterdir()) == ["cifar-10-batches-bin", "cifar-10-binary.tar.gz"]
    # The second call downloads nothing.
    (tmp_path / "away" / "cifar-10-binary.tar.gz").unlink()
    assert len(load("cifar10").test) == 20


def test_an_altered_download_leaves_nothing_behind(tmp_path, cache):
    write_archive(tmp_path / "away" / "cifar-10-binary.tar.gz")
    with pytest.raises(DataError, match=r"MD5 sum \w{32}, expected c32a1d4ab5d03f1284b67883e8d87530; .*cut off"):
        load("cifar10")
    assert list(cache.iterdir()) == []


def test_without_network_the_error_explains_the_manual_download(cache):
    with pytest.raises(
        DataError, match=r"cannot download it \(.*\); fetch file:.* and place it as .*cifar10:ROOT"
    ) as e:
        load("cifar10")
    assert str(cache / "cifar-10-binary.tar.gz") in str(e.value)
    assert list(cache.iterdir()) == []


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere; fetch"):
        load(f"cifar10:{tmp_path / 'nowhere'}")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(DataError, match=r"neither cifar-10-batches-bin nor cifar-10-binary\.tar\.gz in .*root; fetch"):
        load(f"cifar10:{root}")
    (root / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="holds the Python version, which is not read"):
        load(f"cifar10:{root}")


def test_a_missing_batch_is_named(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"cifar-10-batches-bin lacks data_batch_4\.bin"):
        load(f"cifar10:{tmp_path}")


@pytest.mark.parametrize("content", [b"", records("test_batch.bin").tobytes()[:-1]])
def test_a_file_that_was_cut_off(tmp_path, content):
    folder = write_folder(tmp_path)
    (folder / "test_batch.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"test_batch\.bin has {len(content)} bytes, .*cut off"):
        load(f"cifar10:{tmp_path}")


def test_a_label_past_nine(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "data_batch_2.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match=r"data_batch_2\.bin has the label 10, past 9"):
        load(f"cifar10:{tmp_path}")


def test_archives_that_are_damaged(tmp_path, monkeypatch):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_archive(archive)
    with pytest.raises(DataError, match=r"MD5 sum .* expected .*; remove it and fetch"):
        load(f"cifar10:{tmp_path}")
    monkeypatch.setattr(cifar10, "MD5", write_archive(archive, leave_out=["data_batch_5.bin"]))
    with pytest.raises(DataError, match=r"cannot unpack .*data_batch_5\.bin"):
        load(f"cifar10:{tmp_path}")
    archive.write_bytes(b"no archive")
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(b"no archive").hexdigest())
    with pytest.raises(DataError, match="cannot unpack"):
        load(f"cifar10:{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize(
    ("shape", "classes", "message"), [((1, 32, 32), 10, "takes 1x32x32"), ((3, 32, 32), 100, "search space has 100")]
)
def test_other_networks(tmp_path, shape, classes, message):
    write_folder(tmp_path)
    with pytest.raises(DataError, match=message):
        load_data(f"cifar10:{tmp_path}", input=shape, classes=classes, seed=0)


@pytest.mark.data
def test_the_real_data(monkeypatch):
    monkeypatch.undo()
    data = load("cifar10")
    assert (len(data.train), len(data.search_val), len(data.test)) == (40_000, 10_000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    np.testing.assert_allclose(data.train.images.mean((0, 1, 2)) / 255, data.preprocessing.mean, atol=2e-3)
