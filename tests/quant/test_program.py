"""`sq.export_program`: torch.export takes layers of every quantizer."""

from __future__ import annotations

import brevitas.nn as qnn
import pytest
import torch
from torch import nn

import spos_quant as sq
from spos_quant.errors import ExportError
from spos_quant.quant.quantizers import act_quantizers, weight_quantizers


def model() -> nn.Module:
    def conv(weights, weight_bits, act_bits, inputs, outputs, signed=False):
        act = act_quantizers["pact"](act_bits, signed)
        weight = weight_quantizers[weights](weight_bits)
        return qnn.QuantConv2d(inputs, outputs, 3, padding=1, bias=False, weight_quant=weight, input_quant=act)

    torch.manual_seed(0)
    return nn.Sequential(
        conv("gaussian", 4, 1, 3, 4, signed=True),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        conv("midrise", 2, 1, 4, 4),
        nn.ReLU(),
        conv("lsq", 1, 3, 4, 5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).train()


def test_the_program_equals_the_model_for_any_batch_size():
    made, x = model(), torch.randn(4, 3, 6, 6) * 3
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    program = sq.export_program(made, x)
    assert made.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    assert not any(getattr(module, "skip_create_quant_tensor", False) for module in made.modules())
    with torch.no_grad():
        for part in (x, x[:3], torch.cat((x, -x, x))):
            torch.testing.assert_close(program.module()(part), made.eval()(part), rtol=0, atol=1e-6)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in", "_operator")) for name in targets), targets


@pytest.mark.parametrize(("shape", "message"), [((1, 3, 6, 6), "at least two images"), ((4, 5, 6, 6), "cannot follow")])
def test_what_cannot_be_exported(shape, message):
    with pytest.raises(ExportError, match=message):
        sq.export_program(model(), torch.zeros(shape))
