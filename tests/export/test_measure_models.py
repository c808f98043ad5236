"""`sq.measure`: the cost of any model, read from its layers, against numbers counted by hand."""

from __future__ import annotations

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import spos_quant as sq
from spos_quant.errors import ModelError
from spos_quant.quant.quantizers import act_quantizers, weight_quantizers


def quantizers(weight_bits, act_bits, signed=False):
    return {
        "weight_quant": None if weight_bits is None else weight_quantizers["gaussian"](weight_bits),
        "input_quant": None if act_bits is None else act_quantizers["pact"](act_bits, signed),
    }


def test_resnet18_of_torchvision():
    model = torchvision.models.resnet18()
    cost = sq.measure(model, torch.zeros(1, 3, 224, 224))
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert cost["macs"] == cost["float_macs"] == 1_814_073_344
    assert cost["params"] == sum(p.numel() for m in layers for p in m.parameters()) == 11_679_912
    assert cost["weight_bytes"] == 4 * sum(m.weight.numel() for m in layers)
    assert cost["bitops"] is None
    assert cost["bitops_total"] == 1024 * 1_814_073_344
    assert cost["formula"] == "bitops/1"
    names = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sorted(x["name"] for x in cost["layers"]) == sorted(names)
    assert not any(x["counted"] or x["bitops"] or x["weight_bits"] or x["act_bits"] for x in cost["layers"])
    by_name = {x["name"]: x for x in cost["layers"]}
    assert by_name["conv1"]["macs"] == 3 * 49 * 64 * 112 * 112
    assert by_name["fc"]["macs"] == 512_000
    assert (by_name["fc"]["kind"], by_name["conv1"]["kind"]) == ("Linear", "Conv2d")


def test_keys_are_those_of_the_cost_of_an_architecture():
    of = sq.load_space("digits-mixed")
    supernet = sq.build(of)
    table = supernet.cost(of.sample(np.random.default_rng(0)))
    measured = sq.measure(nn.Linear(3, 2), torch.zeros(1, 3))
    assert measured.keys() == table.keys()
    assert measured["layers"][0].keys() == table["layers"][0].keys()
    assert measured["space"] is measured["architecture"] is None


def test_bits_come_from_the_layers():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        qnn.QuantConv2d(8, 8, 3, groups=4, bias=True, **quantizers(3, 5)),
        qnn.QuantConv2d(8, 6, 1, bias=False, **quantizers(None, 4)),
        qnn.QuantConv2d(6, 6, (1, 3), stride=(1, 2), bias=False, **quantizers(1, None)),
        qnn.QuantConv2d(6, 4, 1, bias=False, **quantizers(None, None)),
        nn.Flatten(),
        qnn.QuantLinear(4 * 12 * 5, 10, bias=True, **quantizers(8, 1)),
    )
    cost = sq.measure(model, torch.rand(2, 3, 16, 16))
    rows = [(x["macs"], x["weight_bits"], x["act_bits"], x["bitops"], x["counted"]) for x in cost["layers"]]
    assert rows == [
        (8 * 27 * 14 * 14, None, None, 0, False),
        (8 * 18 * 12 * 12, 3, 5, 8 * 18 * 12 * 12 * 15, True),
        (48 * 12 * 12, None, 4, 48 * 12 * 12 * 32 * 4, True),
        (6 * 18 * 12 * 5, 1, None, 6 * 18 * 12 * 5 * 32, True),
        (24 * 12 * 5, None, None, 24 * 12 * 5 * 1024, True),
        (2400, 8, 1, 19200, True),
    ]
    assert cost["bitops"] == sum(row[3] for row in rows)
    assert cost["float_macs"] == rows[0][0]
    assert cost["bitops_total"] == cost["bitops"] + 1024 * rows[0][0]
    # weights are rounded up to bytes per layer; biases are not counted
    assert cost["weight_bytes"] == 4 * 216 + 54 + 4 * 48 + -(-108 // 8) + 4 * 24 + 2400
    assert cost["params"] == 216 + 8 + 144 + 8 + 48 + 108 + 24 + 2400 + 10


def test_stock_brevitas_models_pass_quantized_tensors():
    """Activation bits are those of a layer's input, wherever the quantizer is."""
    model = nn.Sequential(
        qnn.QuantIdentity(bit_width=8, return_quant_tensor=True),
        qnn.QuantConv2d(3, 4, 3, weight_bit_width=4),
        qnn.QuantReLU(bit_width=3, return_quant_tensor=True),
        qnn.QuantConv2d(4, 4, 3, weight_bit_width=2),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    layers = sq.measure(model, torch.rand(2, 3, 8, 8))["layers"]
    assert [(x["weight_bits"], x["act_bits"]) for x in layers] == [(4, 8), (2, 3), (None, None)]
    assert [x["counted"] for x in layers] == [True, True, False]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(8, 6), nn.Linear(8, 6)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        weights = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.head((weights @ x).mean(1))


@pytest.mark.parametrize("tokens", [5, 9])
def test_products_of_activations_are_float_macs(tokens):
    cost = sq.measure(Attention(), torch.rand(3, tokens, 8))
    in_layers = 2 * tokens * 48 + 24
    assert sum(x["macs"] for x in cost["layers"]) == in_layers
    assert cost["macs"] == cost["float_macs"] == in_layers + tokens * tokens * (6 + 8)
    assert cost["bitops_total"] == 1024 * cost["macs"]
    assert cost["params"] == 2 * 54 + 27


@pytest.mark.parametrize("shape", [(4, 8), (4, 7, 8), (4, 2, 3, 8)])
def test_linear_layers_on_any_number_of_positions(shape):
    positions = torch.zeros(shape)[0].numel() // 8
    cost = sq.measure(qnn.QuantLinear(8, 5, bias=True, **quantizers(4, 2)), torch.rand(shape))
    assert cost["macs"] == positions * 40
    assert cost["bitops"] == positions * 40 * 8
    assert (cost["params"], cost["weight_bytes"]) == (45, 20)


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(self.layer(x))


def test_a_layer_that_runs_twice_counts_macs_twice_and_weights_once():
    layer = qnn.QuantConv2d(3, 3, 3, stride=2, padding=1, bias=False, **quantizers(2, 3))
    cost = sq.measure(Twice(layer), torch.rand(1, 3, 8, 8))
    assert cost["macs"] == 81 * (16 + 4)
    assert cost["bitops"] == 81 * 20 * 6
    assert cost["params"] == 81
    assert [x["name"] for x in cost["layers"]] == ["layer"]
    assert cost["float_macs"] == 0


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "params"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 10), 6 * 12 * 10, 78),
        (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4), 3 * 16 * 27, 51),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5), 4 * 25 * 3 * 9, 114),
        (nn.Conv2d(4, 6, 3, dilation=2, padding="same", padding_mode="reflect"), (2, 4, 8, 8), 6 * 36 * 64, 222),
    ],
    ids=str,
)
def test_other_convolutions(layer, shape, macs, params):
    cost = sq.measure(nn.Sequential(layer), torch.rand(shape))
    assert (cost["macs"], cost["params"], cost["float_macs"]) == (macs, params, macs)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_costs_are_those_of_one_image(n):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    assert sq.measure(model, torch.rand(n, 1, 8, 8))["macs"] == 18 * 36 + 216


def test_the_model_is_unchanged():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.Dropout(0.5),
        nn.Sequential(qnn.QuantConv2d(2, 2, 3, **quantizers(2, 2)), nn.Flatten()),
    ).train()
    model[1].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    sq.measure(model, torch.rand(2, 1, 8, 8) + 5)
    with pytest.raises(ModelError):
        sq.measure(model, torch.rand(2, 3, 8, 8))
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_frozen_models_and_no_grad():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).requires_grad_(False)
    with torch.no_grad():
        assert sq.measure(model, torch.rand(1, 1, 8, 8))["macs"] == 18 * 36 + 216
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 2, 2), (1, 1), (1, 1, 9, 9)])
def test_an_example_that_does_not_fit(shape):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).train()
    with pytest.raises(ModelError, match="an example of shape .* does not fit the model") as error:
        sq.measure(model, torch.rand(shape))
    assert str(shape) in str(error.value)
    assert model.training
