"""Stratified subsets of a split, independent of the order of its images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spos_quant.data import ArraySplit, DataSet, in_content_order, load_data, stratified
from spos_quant.errors import DataError
from spos_quant.train.batches import FixedBatches

labelled = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(lambda values: np.array(values, np.int64))


@given(labelled, st.integers(0, 130), st.integers(0, 2**40))
def test_every_class_has_its_share_to_within_one_image(labels, n, seed):
    chosen = stratified(labels, n, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(n, len(labels))
    for number in set(labels.tolist()):
        share = len(chosen) * (labels == number).sum() / len(labels)
        assert abs((labels[chosen] == number).sum() - share) < 1
    np.testing.assert_array_equal(chosen, stratified(labels, n, seed))


@given(st.integers(0, 1000))
def test_the_seed_selects_the_images_and_every_image_may_be_selected(start):
    labels = np.repeat(np.arange(5), 20)
    chosen = [stratified(labels, 10, start + seed) for seed in range(60)]
    assert len({tuple(one) for one in chosen}) == 60
    assert len(np.unique(np.concatenate(chosen))) > 90
    # The order is random, so that a batch is not sorted by class.
    assert sum(list(labels[one]) == sorted(labels[one]) for one in chosen) == 0


def random_images(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8), rng.integers(0, classes, n)


def write_folder(root, images, labels, names):
    for part, chosen in (("train", range(0, len(labels), 2)), ("test", range(1, len(labels), 2))):
        for i in chosen:
            path = root / part / f"class-{labels[i]}" / f"{names[i]:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i, :, :, 0]).save(path)


def from_function(monkeypatch, tmp_path, images, labels, name):
    """Loads a data set from a function, as the command line does; it returns the arrays in this order."""
    np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    (tmp_path / f"{name}.py").write_text(
        f"import numpy as np\n\ndef load():\n    z = np.load({str(tmp_path / name)!r} + '.npz')\n"
        "    x, y = z['images'], z['labels']\n    half = len(y) // 2\n"
        "    return {'train': (x[half:], y[half:]), 'test': (x[:half], y[:half]), 'flip': True}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return load_data(f"{name}:load", input=(1, 8, 8), classes=int(labels.max()) + 1, seed=0)


def shares(data, split, n):
    labels = data.split(split).labels
    chosen = FixedBatches(data, split, images=n, batch_size=16, seed=0).indices
    return np.bincount(labels[chosen], minlength=len(data.classes)), n * np.bincount(labels) / len(labels)


@pytest.mark.parametrize("source", ["imagefolder", "sorted function", "digits", "fake"])
def test_every_source_gives_every_class_its_share(source, tmp_path, monkeypatch):
    images, labels = random_images(600, 6)
    if source == "imagefolder":  # lists its files class by class
        write_folder(tmp_path, images, labels, range(len(labels)))
        data = load_data(f"imagefolder:{tmp_path}", input=(1, 8, 8), classes=6, seed=0)
    elif source == "sorted function":
        permutation = np.lexsort((labels, np.arange(600) < 300))[::-1]  # each of the two parts is sorted by class
        data = from_function(monkeypatch, tmp_path, images[permutation], labels[permutation], "sorted_by_class")
    else:
        data = load_data(source, input=(1, 8, 8), classes=10, seed=0)
    for split in ("train", "search-val", "test"):
        for n in (13, 30):
            found, expected = shares(data, split, n)
            assert (abs(found - expected) < 1).all(), (split, n, found)


def assert_same(one: DataSet, other: DataSet) -> None:
    for split in ("train", "search-val", "test"):
        left, right = one.split(split), other.split(split)
        assert [left.image(i).tobytes() for i in range(len(left))] == [
            right.image(i).tobytes() for i in range(len(right))
        ]
        assert left.labels.tolist() == right.labels.tolist()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_order_of_arrays_does_not_matter(seed):
    images, labels = random_images(50, 3)
    images[7], labels[7] = images[3], labels[3]  # equal images too
    permutation = np.random.default_rng(seed).permutation(50)
    made = []
    for x, y in ((images, labels), (images[permutation], labels[permutation])):
        of = load_data("digits", input=(1, 8, 8), classes=10, seed=0)
        split = ArraySplit(x, y.astype(np.int64))
        made.append(
            DataSet.holding_out(
                name="x", classes=("a", "b", "c"), preprocessing=of.preprocessing, augmentation=of.augmentation,
                train=split, test=split.subset(range(50)), seed=1,
            )
        )  # fmt: skip
    assert_same(*made)


def test_the_names_of_files_do_not_matter(tmp_path):
    images, labels = random_images(80, 3)
    write_folder(tmp_path / "one", images, labels, range(80))
    write_folder(tmp_path / "other", images, labels, np.random.default_rng(1).permutation(80))
    assert_same(
        *[load_data(f"imagefolder:{tmp_path / name}", input=(1, 8, 8), classes=3, seed=4) for name in ("one", "other")]
    )


def test_content_order_is_unrelated_to_class_order():
    images, labels = random_images(400, 4)
    by_class = np.argsort(labels, kind="stable")
    ordered = in_content_order(ArraySplit(images[by_class], labels[by_class].astype(np.int64)))
    assert abs(np.bincount(ordered.labels[:100], minlength=4) - 25).max() < 15


def test_only_files_of_one_class_and_size_are_read(tmp_path, monkeypatch):
    images, labels = random_images(12, 1)
    write_folder(tmp_path, images, labels, range(12))
    for number, path in enumerate(sorted((tmp_path / "train").rglob("*.png"))):
        path.write_bytes(path.read_bytes() + b"\0" * number)  # trailing bytes give every file another size
    split = load_data(f"imagefolder:{tmp_path}", input=(1, 8, 8), classes=1, seed=0).train
    fresh = type(split)(split.paths, split.labels, split.preprocessing)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail(f"{path} was read"))
    np.testing.assert_array_equal(fresh.content_keys, split.content_keys)


def test_a_missing_file_is_named(tmp_path):
    images, labels = random_images(12, 1)
    write_folder(tmp_path, images, labels, range(12))
    split = load_data(f"imagefolder:{tmp_path}", input=(1, 8, 8), classes=1, seed=0).test
    gone = type(split)((*split.paths[1:], str(tmp_path / "gone.png")), split.labels, split.preprocessing)
    with pytest.raises(DataError, match=r"gone\.png"):
        in_content_order(gone)
