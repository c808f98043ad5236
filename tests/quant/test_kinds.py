from __future__ import annotations

import brevitas.nn as qnn
import pytest
import torch
from torch import nn

from spos_quant.errors import ModelError
from spos_quant.quant.kinds import KINDS, kind_of

LAYERS = [
    nn.Conv2d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2), bias=False),
    nn.Conv2d(4, 8, 3, groups=2, padding="same"),
    nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"),
    nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"),
    nn.Conv1d(4, 6, 3, 2, dilation=2, groups=2),
    nn.Conv1d(4, 6, 5, padding=2, padding_mode="replicate"),
    nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, dilation=2),
    nn.Linear(8, 3),
    nn.Linear(8, 3, bias=False),
]


def inputs(layer: nn.Module) -> torch.Tensor:
    return torch.randn(2, 4, 8) if isinstance(layer, nn.Conv1d) else torch.randn(2, 4, 8, 8)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_forward_is_that_of_the_layer(layer: nn.Module) -> None:
    kind = kind_of(layer)
    x = inputs(layer)
    layer.border = getattr(layer, "_reversed_padding_repeated_twice", None)
    ours = kind.forward(x, layer.weight, layer.bias, layer, getattr(layer, "groups", 1))
    assert torch.equal(ours, layer(x))
    other = kind.forward(x, layer.weight * 2, layer.bias, layer, getattr(layer, "groups", 1))
    assert not torch.equal(other, layer(x))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_settings_and_channels_rebuild_the_layer(layer: nn.Module) -> None:
    """`settings` and `channel_names` list everything that a constructor needs."""
    kind = kind_of(layer)
    names = (*kind.settings, *kind.channel_names, *(("groups",) if kind.grouped else ()))
    arguments = {name: getattr(layer, name) for name in names}
    made = kind.float_class(**arguments, bias=layer.bias is not None)
    assert made.extra_repr() == layer.extra_repr()
    assert made.weight.shape == layer.weight.shape
    made.load_state_dict(layer.state_dict())
    x = inputs(layer)
    assert torch.equal(made(x), layer(x))


def test_brevitas_layers_are_of_the_same_kind() -> None:
    assert kind_of(qnn.QuantConv2d(2, 2, 1)) is kind_of(nn.Conv2d(2, 2, 1)) is KINDS[1]
    assert kind_of(qnn.QuantLinear(2, 2, bias=False)) is kind_of(nn.Linear(2, 2)) is KINDS[3]


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.BatchNorm2d(2), nn.Conv3d(1, 1, 1), nn.ConvTranspose1d(1, 1, 1)])
def test_other_layers_are_refused(layer: nn.Module) -> None:
    known = "Conv1d, Conv2d, ConvTranspose2d, Linear"
    with pytest.raises(ModelError, match=f"{type(layer).__name__} cannot be quantized; expected one of {known}"):
        kind_of(layer)
