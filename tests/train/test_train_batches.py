"""Batches depend on (seed, step): no image repeats in an epoch, ranks share batches, any step can be the first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from train_cases import data

from spos_quant.data import batch, order, stratified
from spos_quant.errors import ConfigError
from spos_quant.train import batches
from spos_quant.train.batches import FixedBatches, TrainingBatches, loader


def plain(images: np.ndarray) -> dict[bytes, int]:
    """Maps the bytes of a normalised image to its index."""
    return {image.tobytes(): i for i, image in enumerate(images)}


def unaugmented(n: int = 40):
    """The data set without augmentation, so that all images are distinct."""
    from dataclasses import replace

    made = data(n)
    return replace(made, augmentation=replace(made.augmentation, pad=0))


def indices(of, xs) -> list[int]:
    known = plain(of.preprocessing.normalise(of.train.images))
    assert len(known) == len(of.train)
    return [known[x.numpy().tobytes()] for batch in xs for x in batch]


@pytest.mark.parametrize("size", [1, 7, 10, 40, 99])
def test_an_epoch_visits_every_image_at_most_once_in_an_order_of_its_own(size):
    of = unaugmented()
    steps = TrainingBatches(of, size, seed=3)
    assert len(steps) == 40 // min(size, 40)
    seen = []
    for epoch in range(3):
        taken = [steps[epoch * len(steps) + turn] for turn in range(len(steps))]
        assert all(x.shape == (min(size, 40), 1, 8, 8) and x.dtype == torch.float32 for x, _ in taken)
        found = indices(of, (x for x, _ in taken))
        assert len(set(found)) == len(found) == len(steps) * min(size, 40)
        assert torch.cat([y for _, y in taken]).tolist() == of.train.labels[found].tolist()
        assert found == order(40, 3, epoch)[: len(found)].tolist()
        seen.append(found)
    assert seen[0] != seen[1] != seen[2]
    assert indices(of, [TrainingBatches(of, size, seed=4)[0][0]]) != seen[0][: min(size, 40)] or size == 1


@pytest.mark.parametrize("ranks", [2, 5])
def test_ranks_share_the_batch(ranks):
    of = data()
    for step in (0, 1, 9):
        x, y = TrainingBatches(of, 10, 1)[step]
        parts = [TrainingBatches(of, 10, 1, rank=r, world_size=ranks)[step] for r in range(ranks)]
        assert sum(len(p[1]) for p in parts) == 10
        assert len({len(p[1]) for p in parts}) == 1
        merged = torch.empty_like(x)
        for r, (mine, labels) in enumerate(parts):
            merged[r::ranks] = mine
            assert torch.equal(labels, y[r::ranks])
        assert torch.equal(merged, x)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_step_can_be_the_first(workers):
    steps = TrainingBatches(data(), 10, 0)
    whole = [steps[i] for i in range(11)]
    for first in (0, 3, 4, 9):
        resumed = list(loader(steps, first, 11, workers))
        assert len(resumed) == 11 - first
        for (x, y), (u, v) in zip(resumed, whole[first:], strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
        if workers:
            break
    assert not torch.equal(whole[0][0], whole[4][0])


def test_training_images_are_augmented_differently_in_every_epoch():
    of = data()
    steps = TrainingBatches(of, 40, 0)
    for epoch in range(2):
        expected, labels = batch(of.train, order(40, 0, epoch), of.preprocessing, of.augmentation, 0, epoch)
        assert np.array_equal(steps[epoch][0].numpy(), expected)
        assert np.array_equal(steps[epoch][1].numpy(), labels)
        still, _ = batch(of.train, order(40, 0, epoch), of.preprocessing, None, 0, epoch)
        assert not np.array_equal(still, expected)


@pytest.mark.parametrize("split", ["train", "search-val", "test"])
@pytest.mark.parametrize("kept", [True, False])
def test_fixed_batches_are_the_same_every_time(split, kept, monkeypatch):
    if not kept:
        monkeypatch.setattr(batches, "_KEEP_BYTES", 0)
    of = data()
    fixed = FixedBatches(of, split, images=7, batch_size=3, seed=2)
    first, second = list(fixed), list(fixed)
    assert [len(y) for _, y in first] == [3, 3, 1]
    assert len(fixed) == 7
    for (x, y), (u, v) in zip(first, second, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
        assert (x is u) == kept
    again = list(FixedBatches(of, split, images=7, batch_size=3, seed=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))


def test_two_concurrent_iterations_are_independent(monkeypatch):
    for keep in (0, 1 << 30):
        monkeypatch.setattr(batches, "_KEEP_BYTES", keep)
        fixed = FixedBatches(data(), "test", images=None, batch_size=3, seed=0)
        pairs = list(zip(fixed, fixed, strict=True))
        assert len(pairs) == 3
        assert all(torch.equal(a[0], b[0]) for a, b in pairs)


def test_fixed_training_images_are_augmented_as_in_training():
    of = data()
    images = torch.cat([x for x, _ in FixedBatches(of, "train", images=30, batch_size=8, seed=5)]).numpy()
    expected, _ = batch(of.train, stratified(of.train.labels, 30, 5), of.preprocessing, of.augmentation, 5)
    assert np.array_equal(images, expected)
    unchanged = plain(of.preprocessing.normalise(of.train.images))
    assert sum(x.tobytes() in unchanged for x in images) < 15
    other = torch.cat([x for x, _ in FixedBatches(of, "train", images=30, batch_size=8, seed=6)]).numpy()
    assert not np.array_equal(other, images)


@pytest.mark.parametrize("split", ["search-val", "test"])
def test_other_images_are_not_augmented_and_subsets_are_stratified(split):
    of = data()
    source = of.split(split)
    found = list(FixedBatches(of, split, images=None, batch_size=6, seed=5))
    assert np.array_equal(torch.cat([x for x, _ in found]).numpy(), of.preprocessing.normalise(source.images))
    assert torch.cat([y for _, y in found]).tolist() == source.labels.tolist()
    few = FixedBatches(of, split, images=5, batch_size=6, seed=9)
    drawn = source.subset(stratified(source.labels, 5, 9))
    assert np.array_equal(next(iter(few))[0].numpy(), of.preprocessing.normalise(drawn.images))
    assert next(iter(few))[1].tolist() == drawn.labels.tolist()


def test_more_images_than_there_are():
    fixed = FixedBatches(data(), "train", images=1000, batch_size=16, seed=0)
    assert len(fixed) == 40 == sum(len(y) for _, y in fixed)
    with pytest.raises(ConfigError, match="unknown split 'tests'; did you mean 'test'"):
        FixedBatches(data(), "tests", images=1, batch_size=1, seed=0)
