"""The benchmarked networks, with the same weights in every form."""

from __future__ import annotations

import copy
from functools import cache

import torch
from brevitas.core.quant import RescalingIntQuant
from brevitas.core.quant.int_base import IntQuant
from brevitas.core.scaling import IntScaling, ParameterScaling, StatsFromParameterScaling
from torch import Tensor, nn

from spos_quant.backbones.build import build, load_spec, space_of
from spos_quant.quant.fused_quant import FusedIntQuant
from spos_quant.quant.scales import ClipScale, StatisticalScale
from spos_quant.quant.static import is_quant_layer
from spos_quant.supernet.supernet import Supernet

CASES = {"resnet20": ("resnet20-mixed", 32, 128), "resnet18": ("resnet18-mixed", 64, 64)}
"""Space, side of the images, batch size."""
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TINY = 4
"""Batch size of the smoke test."""


def supernet_of(case: str, bits: int = 4) -> Supernet:
    """The supernet of a case with the path of uniform bits active."""
    supernet = copy.deepcopy(_built(case))
    supernet.activate(supernet.space.uniform(bits, bits))
    return supernet


@cache
def _built(case: str) -> Supernet:
    space, side, _ = CASES[case]
    return build(space_of(load_spec(space).model_copy(update={"input": (3, side, side)})))


def network(case: str, kind: str, bits: int = 4) -> nn.Module:
    """A network: the `supernet`, its `subnet`, the subnet with stock quantizers (`stock Brevitas`), or `float`."""
    supernet = supernet_of(case, bits)
    if kind == "supernet":
        return supernet
    subnet = supernet.subnet(supernet.space.uniform(bits, bits))
    if kind == "stock Brevitas":
        return stock(subnet)
    if kind == "float":
        for parent in list(subnet.modules()):
            for name, layer in parent.named_children():
                if is_quant_layer(layer):
                    setattr(parent, name, _float(layer))
    return subnet


STOCK = {FusedIntQuant: IntQuant, ClipScale: ParameterScaling, StatisticalScale: StatsFromParameterScaling}
"""Our modules and the modules of Brevitas with the same state."""


def stock(model: nn.Module) -> nn.Module:
    """Replaces our integer quantizers by those of Brevitas in place; they return scales and bits too."""
    for module in model.modules():
        if type(module) in STOCK:
            module.__class__ = STOCK[type(module)]
        if isinstance(module, RescalingIntQuant):
            inner = module.int_quant
            module.int_scaling_impl = IntScaling(inner.narrow_range, inner.signed)
        if hasattr(module, "skip_create_quant_tensor"):
            module.skip_create_quant_tensor = False
    return model


def images(case: str, tiny: bool) -> Tensor:
    """A random batch `[N, 3, H, W]` of a case."""
    _, side, count = CASES[case]
    return torch.randn(TINY if tiny else count, 3, side, side)


def _float(layer: nn.Module) -> nn.Module:
    made = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=False)
    made.weight = layer.weight
    return made
