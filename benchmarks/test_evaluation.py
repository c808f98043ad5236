"""Evaluation of a candidate against float passes: scoring, and recalibration of BatchNorm statistics.

Claim: at most 1.05 passes of the contiguous float network, with the same numbers as the fake-quantized path. With
integer sums (`search.int8`), if the processor has VNNI, 0.60 of a pass of ResNet-20 and 0.45 of ResNet-18.
Lower bound: the float pass in evaluation mode, and with batch statistics. Stock Brevitas is measured too. Freed memory
is kept, as in a search, on both sides: the float pass of ResNet-20 then takes half the time (`freed_memory.py`).

    pytest benchmarks/test_evaluation.py --benchmark-only -n0
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from networks import CASES, FORMATS, images, network, supernet_of
from torch import Tensor, nn

from spos_quant.quant.integers import integers_available
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.switch import cached_weights, fused_norms
from spos_quant.supernet.network import layers_with_following_norm
from spos_quant.train.evaluation import ensure_eval, recalibrate


def score(model: nn.Module, x: Tensor) -> None:
    ensure_eval(model)
    model(x)


WORK = {"score": score, "recalibrate": lambda model, x: recalibrate(model, [x])}


INT8_TARGETS = {"resnet20": 0.60, "resnet18": 0.45}


@torch.no_grad()
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_candidate(against: Callable[..., float], tiny: bool, device: str, case: str, bits: int, work: str) -> None:
    """The supernet as a search runs it: channels last, weights quantized once, kernels compiled."""
    supernet, plain, x = (
        supernet_of(case, bits).to(device).to(memory_format=torch.channels_last),
        network(case, "float").to(device),
        images(case, tiny).to(device),
    )
    layers = [layer for layer, *_ in supernet.quantized_layers()]
    with compiled_kernels(not tiny, device), cached_weights(layers):
        against(lambda: WORK[work](supernet, x), lambda: WORK[work](plain, x), "float pass", 1.05)


@torch.no_grad()
@pytest.mark.skipif(not integers_available(), reason="needs VNNI and oneDNN")
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("case", INT8_TARGETS)
def test_int8_candidate(against: Callable[..., float], tiny: bool, case: str, bits: int, work: str) -> None:
    """The same with `search.int8`."""
    supernet = supernet_of(case, bits).to(memory_format=torch.channels_last)
    plain, x = network(case, "float"), images(case, tiny)
    layers = [layer for layer, *_ in supernet.quantized_layers()]
    pairs = layers_with_following_norm(supernet.body) if work == "score" else ()
    with compiled_kernels(not tiny), cached_weights(layers, integers=True), fused_norms(pairs):
        against(lambda: WORK[work](supernet, x), lambda: WORK[work](plain, x), "float pass", INT8_TARGETS[case])


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_compiled_loops(against: Callable[..., float], tiny: bool, device: str, case: str) -> None:
    """A candidate's pass with compiled kernels against separate operations, the two options of a search on a GPU."""
    supernet = supernet_of(case).to(device).to(memory_format=torch.channels_last)
    x = images(case, tiny).to(device)

    def run(compiled: bool) -> None:
        with compiled_kernels(compiled and not tiny, device):
            score(supernet, x)

    with cached_weights([layer for layer, *_ in supernet.quantized_layers()]):
        against(partial(run, True), partial(run, False), "the same as separate operations")


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_channels_last(against: Callable[..., float], tiny: bool, device: str, case: str) -> None:
    """A candidate's pass with channels-last weights against contiguous ones."""
    x = images(case, tiny).to(device)
    models = [supernet_of(case).to(device).to(memory_format=memory) for memory in reversed(FORMATS.values())]
    layers = [layer for model in models for layer, *_ in model.quantized_layers()]
    with compiled_kernels(not tiny, device), cached_weights(layers):
        against(*(partial(score, model, x) for model in models), "contiguous")


@torch.no_grad()
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("case", CASES)
def test_stock_brevitas(against: Callable[..., float], tiny: bool, device: str, case: str, work: str) -> None:
    stock, plain = (network(case, kind).to(device) for kind in ("stock Brevitas", "float"))
    x = images(case, tiny).to(device)
    against(lambda: WORK[work](stock, x), lambda: WORK[work](plain, x), "float pass")
