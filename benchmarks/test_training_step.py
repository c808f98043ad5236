"""Claim: a quantized training step costs at most 1.20 float steps in the same memory format.

Floor: a float step. Stock Brevitas is measured beside it, on the same path, with the same numbers.

    pytest benchmarks/test_training_step.py --benchmark-only -s
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from brevitas.core.quant.int_base import IntQuant
from common import beside
from torch import Tensor, nn

from spos_quant.backbones.build import build, load_spec, space_of
from spos_quant.quant.fused import FusedIntQuant
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.static import is_quant_layer

CASES = {"resnet20": ("resnet20-mixed", 32, 128), "resnet18": ("resnet18-mixed", 64, 64)}
TINY = 4
"""Images of a batch in the setting that only shows that nothing is broken."""


def networks(space: str, side: int) -> dict[str, nn.Module]:
    """The w4a4 subnet, the same with stock quantizers, the supernet along that path, and the float network."""
    spec = load_spec(space).model_copy(update={"input": (3, side, side)})
    supernet = build(space_of(spec))
    path = supernet.space.uniform(4, 4)
    supernet.activate(path)
    fused = supernet.subnet(path)
    stock, plain = copy.deepcopy(fused), copy.deepcopy(fused)
    for module in stock.modules():
        if isinstance(module, FusedIntQuant):
            module.__class__ = IntQuant
    for parent in list(plain.modules()):
        for name, layer in parent.named_children():
            if is_quant_layer(layer):
                setattr(parent, name, _float(layer))
    return {"subnet": fused, "stock Brevitas": stock, "supernet": supernet, "float": plain}


def _float(layer: nn.Module) -> nn.Module:
    made = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=False)
    made.weight = layer.weight
    return made


def step(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(x), y).backward()


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", ["subnet", "supernet", "stock Brevitas"])
@pytest.mark.parametrize("case", CASES)
def test_training_step(benchmark, request, case: str, kind: str, memory: str) -> None:
    space, side, images = CASES[case]
    tiny = request.config.getoption("--benchmark-disable")
    images = TINY if tiny else images
    found = networks(space, side)
    form = torch.channels_last if memory == "channels_last" else torch.contiguous_format
    model, baseline = (found[k].train().to(memory_format=form) for k in (kind, "float"))
    x, y = torch.randn(images, 3, side, side).to(memory_format=form), torch.randint(10, (images,))
    with compiled_kernels(kind != "stock Brevitas" and not tiny):
        beside(benchmark, lambda: step(model, x, y), lambda: step(baseline, x, y), "float step")
