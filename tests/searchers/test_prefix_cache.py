"""Cached activations change no bit of a score and are not computed twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spos_quant as sq
from spos_quant.backbones.build import load_spec, space_of
from spos_quant.searchers.evaluators import SupernetEvaluator
from spos_quant.searchers.prefix_cache import PrefixCache
from spos_quant.space.search_space import Architecture, SearchSpace
from spos_quant.supernet.network import named_blocks
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.evaluation import score

pytestmark = pytest.mark.usefixtures("one_thread")

LARGE = 2**40


def batches(supernet: Supernet, count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shape = supernet.space.spec.input
    return [
        (torch.randn(4, *shape, generator=generator), torch.randint(10, (4,), generator=generator))
        for _ in range(count)
    ]


def neighbours(space: SearchSpace, count: int) -> list[Architecture]:
    """Each differs from the one before it in one axis."""
    rng = np.random.default_rng(0)
    found = space.sample_many(rng, 1)
    while len(found) < count:
        changed = list(found[-1])
        axis = rng.integers(len(changed))
        changed[axis] = int(rng.integers(len(space.axes[axis].candidates)))
        found.append(space.canonical(tuple(changed)))
    return found


def both(supernet: Supernet, asked: list[Architecture]) -> tuple[list[object], list[object]]:
    images = batches(supernet)
    return tuple(list(SupernetEvaluator(supernet, images, images, prefix_bytes=limit)(asked)) for limit in (0, LARGE))


@pytest.fixture(scope="module")
def digits() -> Supernet:
    return sq.build(sq.load_space("digits-mixed"), seed=1)


@pytest.mark.parametrize(
    ("name", "chained"), [("digits-mixed", 4), ("resnet20-joint", 9), ("shufflenetv2-blocks", 20), ("nasbench201", 1)]
)
def test_scores_are_equal_to_the_last_bit(name: str, chained: int) -> None:
    spec = load_spec(name)
    channels = spec.input[0]
    supernet = sq.build(
        space_of(spec.model_copy(update={"input": (channels, min(32, spec.input[1]), min(32, spec.input[2]))}))
    )
    plain, kept = both(supernet, neighbours(supernet.space, 6))
    assert kept == plain
    assert len({entry.loss for entry in plain}) > 1
    cache = PrefixCache(supernet, batches(supernet)[0][0], LARGE)
    assert len(cache.blocks) == chained


def test_shared_blocks_run_once(digits: Supernet) -> None:
    calls: Counter[str] = Counter()
    handles = [
        next(iter(operator.children())).register_forward_hook(lambda *_, name=name: calls.update([name]))
        for name, block in named_blocks(digits.body).items()
        for operator in block.candidates.values()
        if len(list(operator.children()))
    ]
    names = list(named_blocks(digits.body))
    first = digits.space.uniform(4, 4)
    layers = [layer for layer in digits.space.layers if layer.block == 2 and layer.weight.axis is not None]
    changed = list(first)
    changed[layers[0].weight.axis] = 0
    second = digits.space.canonical(tuple(changed))
    assert second != first
    images = batches(digits)
    evaluate = SupernetEvaluator(digits, images, images, prefix_bytes=LARGE)
    list(evaluate([first]))
    calls.clear()
    (made,) = evaluate([second])
    for handle in handles:
        handle.remove()
    assert [calls[name] for name in names] == [0, 0, 4, 4]  # two batches, recalibrated and scored
    assert (made,) == tuple(SupernetEvaluator(digits, images, images)([second]))
    assert not any("forward" in block.__dict__ for block in named_blocks(digits.body).values())


def test_an_interrupted_pass_leaves_no_cached_activations(digits: Supernet) -> None:
    images = batches(digits)
    asked = neighbours(digits.space, 3)
    evaluate = SupernetEvaluator(digits, images, images, prefix_bytes=LARGE)
    list(evaluate(asked[:1]))
    cut = evaluate.recalibration = [images[0], ("no images", None)]
    with pytest.raises(AssertionError):
        list(evaluate(asked[1:2]))
    assert cut
    evaluate.recalibration = images
    assert list(evaluate(asked[2:])) == list(SupernetEvaluator(digits, images, images)(asked[2:]))


def test_blocks_whose_output_another_module_reads_are_not_skipped(digits: Supernet) -> None:
    class Tapped(nn.Module):
        """Reads the output of the first block again at the end."""

        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body
            self.seen: list[Tensor] = []
            first, *_ = named_blocks(body).values()
            first.register_forward_hook(lambda _, __, made: self.seen.append(made))

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return y + self.seen.pop().mean()

    supernet = sq.build(sq.load_space("digits-mixed"), seed=1)
    supernet.body = Tapped(supernet.body)
    assert not PrefixCache(supernet, batches(supernet)[0][0], LARGE).cuts
    plain, kept = both(supernet, neighbours(supernet.space, 5))
    assert kept == plain


def test_memory_is_limited(digits: Supernet) -> None:
    images, _ = batches(digits)[0]
    whole = PrefixCache(digits, images, LARGE)
    assert list(whole.cuts) == [1, 2, 3, 4]
    sizes: list[int] = []
    with torch.no_grad(), whole.candidate(digits.architecture):
        digits(images)
    sizes = [y.numel() * y.element_size() // len(images) for y in whole.kept[whole.at].values()]
    assert list(PrefixCache(digits, images, sum(sizes)).cuts) == [1, 2, 3, 4]
    assert list(PrefixCache(digits, images, sum(sizes) - 1).cuts) == [2, 4]
    assert list(PrefixCache(digits, images, sizes[3]).cuts) == [4]
    assert not PrefixCache(digits, images, sizes[3] - 1).cuts
    digits.eval()
    assert score(digits, batches(digits)).n == 8
