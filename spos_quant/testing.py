"""Checks of plug-ins for any test suite: `check_operator`, `check_space`. A failed check raises `AssertionError`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spos_quant.backbones.build import build
from spos_quant.cost.table import CostTable
from spos_quant.quant.static import StaticMaker
from spos_quant.quant.switch import SwitchLayer
from spos_quant.space.search_space import SearchSpace
from spos_quant.supernet.blocks import BlockSpec, OperatorMaker
from spos_quant.supernet.measure import measure

_BLOCK_SPECS = (
    BlockSpec(8, 8, widths=(0.5, 1.0, 1.5)),
    BlockSpec(8, 8, widths=(1.0,), signed=True),
    BlockSpec(8, 24, 2, inner=16, widths=(0.5, 1.0, 2.0), signed=True),
    BlockSpec(8, 16, 2, inner=12, widths=(1.0, 0.25), projection=True),
)


def check_operator(make: OperatorMaker, *, changes_shape: bool = True) -> None:
    """Checks an operator under several block specifications.

    At every width, the output must have the shape of the block specification, every parameter on the path must have a
    gradient, the plain copy must give equal outputs, and layers with negative inputs must be `signed`.

    Args:
        make: The operator's function.
        changes_shape: False for operators that need equal input and output shapes, for example pooling.
    """
    for block_spec in _BLOCK_SPECS:
        if not (changes_shape or block_spec.keeps_shape):
            continue
        operator = make(block_spec).train()
        if block_spec.projection and operator.projection is None:
            continue  # such a block refuses the operator
        x = torch.randn(2, block_spec.inputs, 9, 9, generator=torch.Generator().manual_seed(0))
        x = x if block_spec.signed else x.relu()
        for width in range(len(block_spec.widths)):
            operator.activate_width(width)
            with _signs(operator):
                outputs = [(block_spec.outputs, operator(x))]
                if operator.projection is not None:
                    outputs.append((block_spec.inputs, operator._modules[operator.projection](x)))  # type: ignore[misc]
            plain = StaticMaker().module(operator).eval()
            operator.eval()
            assert torch.equal(plain(x), operator(x)), f"{block_spec}: outputs of the plain copy differ"
            operator.train()
            if not operator.row:
                continue
            for channels, y in outputs:
                side = -(-9 // block_spec.stride)
                assert y.shape == (2, channels, side, side), f"{block_spec}: gives shape {tuple(y.shape)}"
                assert y.isfinite().all(), f"{block_spec}: output is not finite at width {block_spec.widths[width]}"
            _check_gradients(operator, [y for _, y in outputs], block_spec)


def _check_gradients(operator: nn.Module, outputs: list[Tensor], block_spec: BlockSpec) -> None:
    parameters = [p for p in operator.parameters() if p.requires_grad]
    if parameters:
        total = torch.stack([y.square().sum() for y in outputs]).sum()
        for gradient in torch.autograd.grad(total, parameters, allow_unused=True):
            assert gradient is not None, f"{block_spec}: a parameter is on no path, it has no gradient"


def _signs(module: nn.Module) -> ExitStack:
    """While open, raises if a layer that is not `signed` reads negative values."""
    stack = ExitStack()

    def check(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, SwitchLayer)
        if not layer.signed:
            assert float(inputs[0].detach().min()) >= 0, f"a layer reads negative values and is not signed: {layer}"

    for layer in module.modules():
        if isinstance(layer, SwitchLayer):
            stack.callback(layer.register_forward_pre_hook(check).remove)
    return stack


def check_space(space: SearchSpace, *, paths: int = 3, seed: int = 0) -> None:
    """Checks a search space, and so its backbone, on random architectures.

    For each architecture, the outputs of the subnet must equal those of the path exactly; BitOps, MACs, parameters and
    weight bytes must equal those measured from the subnet's layers; MACs must equal those of torch's FLOP counter;
    layers with negative inputs must be `signed`; the bit configuration must convert back to the architecture.

    Args:
        space: The search space; small inputs make the check fast.
        paths: Number of architectures.
        seed: Seed of the architectures and the weights.
    """
    supernet = build(space, seed=seed).train()
    table = CostTable(space)
    generator = torch.Generator().manual_seed(seed)
    # A few images suffice for the signs: in training mode, BatchNorm uses their own statistics.
    x = torch.randn(4, *space.spec.input, generator=generator)
    for architecture in space.sample_many(np.random.default_rng(seed), paths):
        supernet.activate(architecture)
        supernet.activate_float()
        with _signs(supernet), torch.no_grad():
            supernet.train()(x)
        counter = FlopCounterMode(display=False)
        with counter:
            supernet.eval()(x[:1])
        assert counter.get_total_flops() == 2 * table.total(architecture, "macs"), f"{architecture}: MACs differ"
        supernet.activate(architecture)
        subnet = supernet.subnet(architecture)
        with torch.no_grad():
            assert torch.equal(subnet(x), supernet(x)), f"{architecture}: outputs of the subnet differ"
        assert space.architecture(space.bit_config(architecture)) == architecture, (
            f"{architecture}: its bit configuration converts to another architecture"
        )
        found = measure(subnet, x)
        for metric in ("bitops", "macs", "params", "weight_bytes"):
            if found[metric] is not None:
                assert found[metric] == table.total(architecture, metric), f"{architecture}: {metric} differs"
