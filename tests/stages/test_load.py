"""`sq.load`: a retrained model loads with few modules besides torch and Brevitas, and torch.export accepts it."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import spos_quant as sq
from spos_quant.backbones.build import build, build_plain, space_of
from spos_quant.space.locked import locked_spec
from spos_quant.supernet.weights import named_tensors

KEY = "bitops-2.2M"
CODE = """
import sys
from itertools import pairwise
import torch, brevitas.nn, numpy, yaml, pydantic, safetensors.torch
before = {name.partition(".")[0] for name in sys.modules}
import spos_quant
model = spos_quant.load(sys.argv[1], sys.argv[2])
print(model(torch.zeros(1, 1, 8, 8)).shape)
after = {name.partition(".")[0] for name in sys.modules}
print(sorted(after - before - sys.stdlib_module_names))
print([name for name in sys.modules if name.startswith("spos_quant")])
"""


def test_a_model_loads_with_torch_and_brevitas_alone(tiny_run):
    command = [sys.executable, "-c", CODE, str(tiny_run), KEY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shape, others, ours = done.stdout.splitlines()
    assert shape == "torch.Size([1, 10])"
    assert set(ast.literal_eval(others)) <= {"spos_quant", "search_spaces", "annotated_types"}  # the last is pydantic's
    absent = ("supernet.supernet", "supernet.calibrate", "train", "searchers", "export", "data", "cli", "report")
    for name in absent:
        assert f"'spos_quant.{name}" not in ours, name


@pytest.mark.parametrize("name", ["digits-mixed", "nasbench201-mixed", "mobilenetv3-mixed", "shufflenetv2-joint"])
def test_the_plain_model_is_the_subnet_of_the_locked_space(name):
    space = sq.load_space(name)
    config = space.bit_config(space.sample_many(np.random.default_rng(3), 1)[0])
    locked = space_of(locked_spec(space, config))
    plain, subnet = build_plain(locked), build(locked).subnet(())
    ours, theirs = (dict(named_tensors(module)) for module in (plain, subnet))
    assert list(ours) == list(theirs)
    assert all(ours[key].shape == theirs[key].shape for key in ours)
    assert [type(m) for m in plain.modules()] == [type(m) for m in subnet.modules()]


def fold(model: nn.Module) -> nn.Module:
    """Folds every BatchNorm into the convolution registered before it."""
    for owner in list(model.modules()):
        children = list(owner.named_children())
        for (_, layer), (name, norm) in pairwise(children):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                factor = norm.weight / (norm.running_var + norm.eps).sqrt()
                with torch.no_grad():
                    layer.weight *= factor[:, None, None, None]
                    layer.bias = nn.Parameter(norm.bias - norm.running_mean * factor)
                setattr(owner, name, nn.Identity())
    return model


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_torch_export_accepts_the_model(tiny_run, tmp_path, folded):
    model = sq.load(tiny_run, KEY)
    if folded:
        model = fold(model)
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    program = sq.export_program(model, x)
    with torch.no_grad():
        for part in (x, x[:3]):
            torch.testing.assert_close(program.module()(part), model(part), rtol=0, atol=1e-6)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("round" in name for name in targets), "the quantizers are not in the graph"
    assert all(name.startswith(("aten.", "<built-in", "_operator")) for name in targets), targets
    saved = tmp_path / "model.pt2"
    torch.export.save(program, saved)
    again = torch.export.load(saved).module()
    with torch.no_grad():
        assert torch.equal(again(x), program.module()(x))
    assert not any(getattr(m, "skip_create_quant_tensor", False) for m in model.modules()), "the model was changed"
