"""`measure` computes the cost of any model from its own layers; here against formulas and the cost table."""

from __future__ import annotations

import brevitas.nn as qnn
import pytest
import torch
from supernet_cases import every_candidate, images, supernet
from torch import Tensor, nn
from torchvision.models import resnet18

from spos_quant.errors import ModelError
from spos_quant.quant.quantizers import gaussian, pact
from spos_quant.supernet.measure import measure


@pytest.mark.parametrize("name", ["separate", "float shortcut", "float"])
def test_subnets_cost_what_the_table_says(name: str) -> None:
    made = supernet(name)
    for a in every_candidate(made.space)[::9] or every_candidate(made.space):
        found = measure(made.subnet(a), images(made))
        wanted = made.cost(a)
        for key in ("bitops", "bitops_total", "macs", "float_macs", "params", "weight_bytes", "formula"):
            assert found[key] == wanted[key], key
        by_name = {row["name"]: row for row in wanted["layers"]}
        assert {row["name"]: row for row in found["layers"]} == by_name
    assert found["space"] is None
    assert found["architecture"] is None


def test_a_stock_brevitas_model() -> None:
    model = nn.Sequential(
        qnn.QuantConv2d(3, 8, 3, bias=True, weight_quant=gaussian(2), input_quant=pact(4, True)),
        nn.BatchNorm2d(8),
        qnn.QuantReLU(act_quant=pact(3, False), return_quant_tensor=True),
        qnn.QuantConv2d(8, 4, 1, groups=2, bias=False, weight_quant=gaussian(5)),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    )
    found = measure(model, torch.randn(2, 3, 6, 6))
    first, second, last = 16 * 8 * 27, 16 * 4 * 4, 4 * 16 * 5
    assert found["bitops"] == first * 2 * 4 + second * 5 * 3
    assert found["macs"] == first + second + last
    assert found["float_macs"] == last
    assert found["bitops_total"] == found["bitops"] + last * 1024
    assert found["params"] == 216 + 8 + 16 + 320 + 5
    assert found["weight_bytes"] == 216 * 2 // 8 + 16 * 5 // 8 + 320 * 4
    assert [row["counted"] for row in found["layers"]] == [True, True, False]


def test_a_float_model_has_no_bitops_and_is_left_as_it_was() -> None:
    model = resnet18(num_classes=10)
    model.layer1.eval()
    model.bn1.momentum = 1.0
    before = [m.training for m in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = measure(model, torch.randn(3, 3, 32, 32))
    assert found["bitops"] is None
    assert found["macs"] == found["float_macs"] == 1_813_561_344 // 49 + 5120  # the published count at 224 pixels
    assert [m.training for m in model.modules()] == before
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


class Shared(nn.Module):
    """One layer twice, a transposed convolution, and a product outside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(2, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.layer(self.layer(x))).flatten(2)
        return y @ y.transpose(1, 2)


def test_layers_that_run_twice_count_twice_and_weigh_once() -> None:
    found = measure(Shared(), torch.randn(1, 2, 4, 4))
    layer, up, outside = 2 * 16 * 2 * 18, 16 * 2 * 3 * 4, 3 * 3 * 64
    assert found["macs"] == layer + up + outside
    assert found["params"] == 36 + 2 + 24 + 3


def test_an_example_that_does_not_fit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ModelError, match=r"an example of shape \(1, 2, 8, 8\) does not fit the model"):
        measure(model, torch.randn(1, 2, 8, 8))
    assert model.training
    assert not model[0]._forward_hooks
