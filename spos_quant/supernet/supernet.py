"""`Supernet`: all candidates of a search space with shared weights; one path is active at a time."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spos_quant.cost.budget import parse_budget
from spos_quant.cost.latency import read_latency_csv
from spos_quant.cost.latency_error import accuracy_note
from spos_quant.cost.metrics import metrics
from spos_quant.cost.rows import architecture_rows, space_summary
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError
from spos_quant.progress import remark
from spos_quant.quant.scales import LearnedScale
from spos_quant.quant.static import StaticMaker, parameters_stay
from spos_quant.quant.switch import Affine, InputQuantizer, SwitchBatchNorm2d, SwitchLayer
from spos_quant.space.search_space import Architecture, AxisReference, SearchSpace
from spos_quant.streams import Stream, torch_seed
from spos_quant.supernet.attach import attach
from spos_quant.supernet.network import layers_with_following_norm, named_blocks, places


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer parameter groups of any model as in `Supernet.param_groups`: no weight decay on 1-D parameters."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _in(name: str, names: Container[str] | None) -> bool:
    return names is None or name in names


class Supernet(nn.Module):
    """A network whose choice blocks and layers switch to any architecture of a search space.

    Args:
        space: The search space.
        body: The network, built by the backbone for this space.

    Attributes:
        architecture: The active architecture.

    Raises:
        ModelError: the body does not match the network shapes of the space.
    """

    def __init__(self, space: SearchSpace, body: nn.Module) -> None:
        super().__init__()
        self.space = space
        self.body = body
        self.table = CostTable(space)
        self._layers = attach(space, body)
        self._norms = self._split_norms() if space.spec.batch_norm == "per-bits" else []
        self._blocks = list(named_blocks(body).values())
        self.architecture: Architecture = ()
        self.activate((0,) * len(space.axes))

    def _split_norms(self) -> list[tuple[SwitchBatchNorm2d, AxisReference]]:
        """Splits BatchNorm layers behind quantized layers by weight bits; returns them with their axis references."""
        bits = {layer: weight for layer, weight, _ in self._layers}
        pairs = list(layers_with_following_norm(self.body))
        if not pairs:
            raise ConfigError(
                f"{self.space.name}: batch_norm: per-bits needs layers directly followed by a SwitchBatchNorm2d, which "
                f"backbone {self.space.spec.backbone!r} does not have; leave it at shared"
            )
        found = [(norm, bits[layer]) for layer, norm in pairs if layer in bits]
        for norm, weight in found:
            norm.split(weight.values)
        return found

    @torch.no_grad()
    def start(self, only: Container[str] | None = None) -> None:
        """Initializes the parameters of each bit-width from the current weights, for use after these were replaced.

        Learned weight scales start from the statistics of the weight, affine parameters from the shared ones.

        Args:
            only: Names of the parameters to initialize; None is all.
        """
        for path, owner in self.named_modules():
            if isinstance(owner, SwitchLayer):
                for name, scale in owner.weight_quant.named_modules():
                    if isinstance(scale, LearnedScale) and _in(f"{path}.weight_quant.{name}.value", only):
                        scale.start(owner.weight)
            elif isinstance(owner, SwitchBatchNorm2d):
                for name, affine in owner.by_bits.items():
                    assert isinstance(affine, Affine)
                    for what in ("weight", "bias"):
                        if _in(f"{path}.by_bits.{name}.{what}", only):
                            getattr(affine, what).copy_(getattr(owner, what))

    def activate(self, architecture: Architecture) -> None:
        """Makes this architecture the active path.

        Raises:
            SpaceError: the architecture is not in this space.
        """
        self.architecture = self.space.canonical(architecture)
        for block, slot in zip(self._blocks, self.space.blocks, strict=True):
            block.activate(slot.op.index(self.architecture), slot.width.index(self.architecture))
        for layer, weight, act in self._layers:
            layer.activate_bits(weight.value(self.architecture), act.value(self.architecture))
        for norm, weight in self._norms:
            norm.activate_bits(weight.value(self.architecture))

    def activate_float(self) -> None:
        """Switches off every quantizer on the active path; operators, widths and BatchNorm do not change."""
        for layer, _, _ in self._layers:
            layer.activate_bits(None, None)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Loads as torch does, into the existing parameters, so that an optimizer that was built before stays valid."""
        with parameters_stay():
            return super().load_state_dict(*arguments, **options)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The output of the active path: logits `[N, classes]` for images `[N, C, H, W]`."""
        return self.body(*inputs, **options)

    def param_groups(self, *, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: weight decay on weights, none on biases, BatchNorm, clips and scales."""
        return param_groups(self, weight_decay)

    def subnet(self, architecture: Architecture) -> nn.Module:
        """The plain static model of an architecture, with copied weights: Brevitas layers, bit-exact to the path.

        The active path of the supernet does not change.
        """
        before = self.architecture
        bits = [(layer.weight_bits, layer.act_bits) for layer, _, _ in self._layers]
        self.activate(architecture)
        try:
            # Construction draws random numbers on the default device; the user's generator state must not change.
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                return StaticMaker().module(self.body).train(self.training)
        finally:
            self.activate(before)
            for (layer, _, _), (weight_bits, act_bits) in zip(self._layers, bits, strict=True):
                layer.activate_bits(weight_bits, act_bits)  # differs from `before` after `activate_float`

    def cost(self, architecture: Architecture) -> dict[str, Any]:
        """The costs of an architecture, as `spos-quant cost --json` prints them."""
        architecture = self.space.canonical(architecture)
        found = space_summary(self.space, architecture_rows(self.space, architecture), self.space.encode(architecture))
        if self.table.latency is None:
            return found
        by_table = (name for name, metric in metrics.items() if metric.formula is None)
        return found | {name: self.table.total(architecture, name) for name in by_table}

    def use_latency_table(self, path: str | Path) -> None:
        """Adds `latency` to the costs of architectures, so that `latency_budget="2ms"` is a valid budget.

        Reports on stderr how far sums of layer latencies are from whole networks, if the table has this.

        Args:
            path: A table as written by `spos-quant latency`, or of your own device.

        Raises:
            ConfigError: the table does not exist, or lacks a layer of the space.
        """
        latency = read_latency_csv(Path(path))
        latency.check(self.space, str(path))
        self.table = CostTable(self.space, latency)
        remark(accuracy_note(latency, self.space))

    def sample(self, rng: np.random.Generator, n: int, **budgets: str | float) -> list[Architecture]:
        """`n` architectures, uniform over those within the budgets, for example `bitops_budget="6.3Gi"`.

        Raises:
            BudgetError: a budget cannot be parsed or met.
            TypeError: a keyword does not end in `_budget`.
        """
        for name in budgets:
            if not name.endswith("_budget"):
                raise TypeError(f"sample() got an unexpected keyword {name!r}; budgets end in _budget")
        parsed = [parse_budget(text, name.removesuffix("_budget"), self.table) for name, text in budgets.items()]
        return FeasibleSampler(self.table, parsed).sample(rng, n)

    def quantized_layers(self) -> list[tuple[SwitchLayer, AxisReference, AxisReference]]:
        """Every quantized layer of every operator, with the axis references of its weight and activation bits."""
        return list(self._layers)

    def input_quantizers(self) -> dict[InputQuantizer, list[SwitchLayer]]:
        """Every input quantizer with the layers that use it."""
        found: dict[InputQuantizer, list[SwitchLayer]] = {}
        for layer, _, _ in self._layers:
            if layer.input_quant is not None:
                found.setdefault(layer.input_quant, []).append(layer)
        return found

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Initializes all weights from a seed: He normal for layers, ones and zeros for BatchNorm."""
        generator = torch.Generator().manual_seed(torch_seed(Stream.WEIGHTS, seed))
        for place in places(self.body):
            fan_in = place.layer.weight[0].numel()
            gain = 1.0 if place.layer.weight.dim() == 2 else 2.0
            drawn = torch.randn(place.layer.weight.shape, generator=generator)
            place.layer.weight.copy_(drawn * (gain / fan_in) ** 0.5)
            if place.layer.bias is not None:
                place.layer.bias.zero_()
        for norm in self.body.modules():
            if isinstance(norm, SwitchBatchNorm2d):
                for ones, zeros in ((norm.weight, norm.bias), (norm.running_var, norm.running_mean)):
                    ones.fill_(1.0)
                    zeros.zero_()
        self.start()
