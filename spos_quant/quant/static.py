"""From switchable to plain: the static Brevitas layer of an active path, and bits read back from such layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import nn

from spos_quant.quant.quantizers import quantizer_pair
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer

Bits = int | None


class StaticMaker:
    """Makes plain modules out of switchable ones with copied weights.

    One maker serves one model: layers that shared an input quantizer share its plain counterpart too.
    """

    def __init__(self) -> None:
        self._inputs: dict[tuple[int, int], Any] = {}

    def module(self, module: nn.Module) -> nn.Module:
        """The plain counterpart of `module`; modules without anything to switch are copied, children included."""
        if isinstance(module, SwitchLayer):
            return self.layer(module)
        if isinstance(module, SwitchBatchNorm2d):
            return static_batch_norm(module)
        own = getattr(module, "static", None)
        if own is not None:
            plain: nn.Module = own(self)
            return plain
        if not module._modules:
            return copy.deepcopy(module)
        shell = copy.copy(module)
        shell._modules = {n: None if m is None else self.module(m) for n, m in module._modules.items()}
        return shell

    def layer(self, layer: SwitchLayer) -> nn.Module:
        """A plain torch layer where the space keeps it float, else a Brevitas layer."""
        channels = dict(zip(layer.kind.channel_names, (layer.active_in, layer.active_out), strict=True))
        settings: dict[str, Any] = {**layer.settings, **channels, "bias": layer.bias is not None}
        if layer.kind.grouped:
            settings["groups"] = layer.active_groups
        if layer.searchable:
            weight = None if layer.weight_bits is None else quantizer_pair(layer.quantizer)[0](layer.weight_bits)
            act = None
            if layer.act_bits is not None:
                act = quantizer_pair(layer.quantizer)[1](layer.act_bits, layer.signed)
            settings |= {"weight_quant": weight, "input_quant": act}
        made = (layer.kind.brevitas_class if layer.searchable else layer.kind.float_class)(**settings)
        made.to(layer.weight.device)
        with torch.no_grad():
            made.weight.copy_(layer.active_weight())  # type: ignore[operator]
            bias = layer.active_bias()
            if bias is not None:
                made.bias.copy_(bias)  # type: ignore[operator]
            if layer.act_bits is not None:
                self._take_input_quant(layer, made)
        return made.train(layer.training)

    def _take_input_quant(self, layer: SwitchLayer, made: Any) -> None:
        """Copies the clip of the active bits; layers that shared a quantizer go on sharing one."""
        assert layer.input_quant is not None
        assert layer.act_bits is not None
        key = (id(layer.input_quant), layer.act_bits)
        if key in self._inputs:
            made.input_quant = self._inputs[key]
            made.input_quant.add_tracked_module(made)
            return
        (clip,) = made.input_quant.parameters()
        clip.copy_(layer.input_quant.clip(layer.act_bits))
        self._inputs[key] = made.input_quant


def static_batch_norm(norm: SwitchBatchNorm2d) -> nn.BatchNorm2d:
    """The ordinary BatchNorm of the active channels."""
    made = nn.BatchNorm2d(norm.active, eps=norm.eps, momentum=norm.momentum).to(norm.weight.device)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(made, name).copy_(getattr(norm, name)[: norm.active])
    return made.train(norm.training)


def is_quant_layer(layer: nn.Module) -> bool:
    """Whether a layer is a Brevitas layer, quantized or with float candidates."""
    return isinstance(layer, QuantLayer)


def read_bits(layer: nn.Module) -> tuple[Bits, Bits]:
    """Weight bits and input activation bits of a layer, read from its own Brevitas quantizers; None is float."""
    if not isinstance(layer, QuantLayer):
        return None, None
    found: list[Bits] = []
    for proxy in (layer.weight_quant, layer.input_quant):
        enabled = getattr(proxy, "is_quant_enabled", False)
        width = proxy.bit_width() if enabled else None
        found.append(None if width is None else round(float(width)))
    return found[0], found[1]


def read_signed(layer: nn.Module) -> bool | None:
    """Whether the input quantizer of a layer is signed; None where the input is float."""
    if read_bits(layer)[1] is None:
        return None
    return bool(layer.input_quant.is_signed)
