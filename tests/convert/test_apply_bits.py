"""`sq.apply_bits` and `sq.measure`: bit configurations of any tool on any model, and costs computed by hand."""

from __future__ import annotations

import json
from typing import Any

import brevitas.nn as qnn
import pytest
import torch
import torchvision
from convert_cases import everything, mlp
from torch import nn

import spos_quant as sq
from spos_quant.errors import ModelError, SpaceError
from spos_quant.quant.static import read_bits


def config(bits: dict[str, Any], **more: Any) -> dict[str, Any]:
    layers = {name: {"weight_bits": w, "act_bits": a} for name, (w, a) in bits.items()}
    return {
        "format": "spos-quant/bit-config/1",
        "model": "x",
        "input": [7],
        "activation_bits_at": "layer input",
        "layers": layers,
    } | more


MLP = {"0": (None, None), "2": (2, 4), "4": (8, 8)}


def test_only_layers_with_bits_change(tmp_path) -> None:
    model, x = mlp()
    made = sq.apply_bits(model, config(MLP), x)
    assert [type(m) for m in made] == [nn.Linear, nn.ReLU, qnn.QuantLinear, nn.Tanh, qnn.QuantLinear]
    assert [read_bits(made[i]) for i in (2, 4)] == [(2, 4), (8, 8)]
    assert torch.equal(made[2].weight, model[2].weight)
    assert type(model[2]) is nn.Linear
    text = json.dumps(config(MLP))
    (tmp_path / "x.bits.json").write_text(text)
    for given in (text, tmp_path / "x.bits.json", str(tmp_path / "x.bits.json")):
        assert torch.equal(sq.apply_bits(model, given, x)(x), made(x))
    again = sq.apply_bits(made, config(MLP | {"2": (3, 3)}), x)
    assert read_bits(again[2]) == (3, 3), "a Brevitas model takes other bits"


def test_a_found_configuration_gives_the_subnet() -> None:
    model, inputs = everything()
    supernet = sq.quantize(model, inputs, [(2, 2), (4, 4)])
    a = supernet.space.uniform(4, 4)
    made = sq.apply_bits(model, supernet.space.bit_config(a).to_json(), inputs)
    assert torch.equal(made(*inputs), supernet.subnet(a)(*inputs))


def test_measure_by_hand() -> None:
    model, x = mlp()
    cost = sq.measure(sq.apply_bits(model, config(MLP), x), x)
    assert cost["bitops"] == 16 * 16 * 2 * 4 + 16 * 3 * 8 * 8
    assert cost["macs"] == 7 * 16 + 16 * 16 + 16 * 3
    assert cost["weight_bytes"] == 4 * 7 * 16 + 16 * 16 // 4 + 16 * 3
    assert sq.measure(model, x)["bitops"] is None


@pytest.mark.parametrize(
    ("name", "gbops"), [("resnet18", (116.1, 34.7)), pytest.param("resnet50", (261.7, 71.2), marks=pytest.mark.slow)]
)
def test_hawq_tables_by_a_hand_count(name: str, gbops: tuple[float, float]) -> None:
    """All layers at 8 bits; at 4 bits with both ends at 8. Counted as in HAWQ-V3 (its ResNet-50 has fewer MACs)."""
    model = getattr(torchvision.models, name)().eval()
    x = torch.randn(1, 3, 224, 224)
    names = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    macs: dict[str, int] = {}
    for layer in names:
        module = model.get_submodule(layer)
        module.register_forward_hook(
            lambda m, _, y, layer=layer: macs.update({layer: y[0].numel() * m.weight[0].numel()})
        )
    with torch.no_grad():
        model(x)
    for module in model.modules():
        module._forward_hooks.clear()
    for low, expected in zip((8, 4), gbops, strict=True):
        bits = {n: (8, 8) if n in ("conv1", "fc") else (low, low) for n in names}
        cost = sq.measure(sq.apply_bits(model, config(bits), x), x)
        assert cost["bitops"] == sum(macs[n] * w * a for n, (w, a) in bits.items())
        assert round(cost["bitops"] / 1e9, 1) == expected


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (config(MLP | {"3.fc": (4, 4)}), SpaceError, "names a layer '3.fc' that the model does not have"),
        (config({"0": (4, 4), "2": (4, 4)}), SpaceError, "layer '4' is missing in the bit configuration.*give it null"),
        (config(MLP | {"2": (9, 4)}), SpaceError, "2"),
        (config(MLP, quantizer="gausian+pact"), Exception, "did you mean 'gaussian'"),
        ("{no json", SpaceError, "no JSON text"),
        ("nothing.bits.json", SpaceError, "cannot be read"),
        ({"layers": {}}, SpaceError, "format: expected"),
    ],
)
def test_bad_configurations(given, error, message) -> None:
    model, x = mlp()
    with pytest.raises(error, match=message):
        sq.apply_bits(model, given, x)


def test_other_channels_are_refused() -> None:
    model, x = mlp()
    given = config(MLP)
    given["layers"]["2"]["out_channels"] = 24
    with pytest.raises(SpaceError, match="layer '2' has 16 output channels, the bit configuration says 24"):
        sq.apply_bits(model, given, x)
    with pytest.raises(ModelError, match="does not fit the model"):
        sq.apply_bits(model, config(MLP), torch.randn(2, 3))


def test_signs_of_the_configuration_are_used() -> None:
    model, x = mlp()
    given = config(MLP)
    given["layers"]["2"]["signed"] = True
    assert sq.apply_bits(model, given, x)[2].input_quant.is_signed
    assert not sq.apply_bits(model, config(MLP), x)[2].input_quant.is_signed
    given["layers"]["4"]["signed"] = False
    with pytest.raises(SpaceError, match="layer '4' reads negative values, which an unsigned quantizer"):
        sq.apply_bits(model, given, x)


def test_residual_bits_are_refused() -> None:
    model, x = mlp()
    with pytest.raises(SpaceError, match="residual additions to 8 bits, but they are not modules"):
        sq.apply_bits(model, config(MLP, residual_bits=8), x)
