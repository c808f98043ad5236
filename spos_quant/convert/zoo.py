"""Published models as backbones: `torchvision:NAME` and `timm:NAME`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from spos_quant.convert.swap import swap_layers, tree_units
from spos_quant.errors import ConfigError, SpaceError, near
from spos_quant.space.spec import SpaceSpec
from spos_quant.supernet.network import Backbone, BlockBuilder

_IMAGES = 2
"""Number of random images used to detect which layers may have negative inputs."""


def published(name: str) -> Backbone:
    """The backbone of a published model, with its layers replaced by switchable ones.

    Args:
        name: `torchvision:NAME` or `timm:NAME`.

    Raises:
        ConfigError: The source is another one. If the backbone is called: unknown model, or timm is not installed.
    """
    source, _, model = name.partition(":")
    if source not in _SOURCES:
        raise ConfigError(f"unknown backbone {name!r}{near(source, _SOURCES)}; expected torchvision:NAME or timm:NAME")

    def make(spec: SpaceSpec, builder: BlockBuilder) -> nn.Module:
        for axes in (spec.axes, *spec.overrides.values()):
            if axes.op or axes.width:
                raise SpaceError(
                    f"{spec.name}: backbone {name!r} has no choice blocks, so neither operators nor widths to choose; "
                    "give bits"
                )
        body = _SOURCES[source](model, spec)
        device = next(body.parameters()).device
        images = torch.empty(1, *spec.input, device="meta")
        if device.type != "meta":
            images = torch.randn(_IMAGES, *spec.input, generator=torch.Generator().manual_seed(0))
        builder.float_ends = swap_layers(body, [(images,)]).ends
        builder.units = tree_units(body)
        builder.own_start = True
        return body

    return make


def _torchvision(name: str, spec: SpaceSpec) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ConfigError(f"torchvision has no classifier {name!r}{near(name, known)}")
    if spec.input[0] != 3:
        raise SpaceError(f"{spec.name}: models of torchvision take 3 channels, the space's input has {spec.input[0]}")
    options: dict[str, Any] = {"weights": None, "num_classes": spec.classes}
    # googlenet and inception_v3 have auxiliary classifiers. The training loss does not support their outputs.
    parameters = inspect.signature(getattr(torchvision.models, _class_of(name), nn.Module)).parameters
    options |= {key: value for key, value in (("aux_logits", False), ("init_weights", True)) if key in parameters}
    made: nn.Module = torchvision.models.get_model(name, **options)
    return made


def _class_of(name: str) -> str:
    return {"googlenet": "GoogLeNet", "inception_v3": "Inception3"}.get(name, "")


def _timm(name: str, spec: SpaceSpec) -> nn.Module:
    timm = _import_timm()
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name!r}{near(name, timm.list_models())}")
    made: nn.Module = timm.create_model(name, pretrained=False, num_classes=spec.classes, in_chans=spec.input[0])
    return made


def _import_timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ConfigError("models of timm need the package timm: pip install 'spos-quant[timm]'") from None
    return timm


_SOURCES: dict[str, Callable[[str, SpaceSpec], nn.Module]] = {"torchvision": _torchvision, "timm": _timm}
