"""The static Brevitas layers of an active path, and the bits read back from such layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from brevitas import config
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer as QuantLayer
from torch import nn

from spos_quant.quant.quantizers import quantizer_pair
from spos_quant.quant.switch import SwitchBatchNorm2d, SwitchLayer, values_only

Bits = int | None


class Switchable(nn.Module):
    """A module with several paths that can make its plain counterpart."""

    def static(self, maker: StaticMaker) -> nn.Module:
        """The plain module of the active path, its parts made by `maker`."""
        raise NotImplementedError


class StaticMaker:
    """Makes plain modules from switchable ones, with copied weights.

    Use one maker per model: layers that share an input quantizer or a weight then share its plain counterpart too.
    """

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._inputs: dict[tuple[int, int], Any] = {}

    def module(self, module: nn.Module) -> nn.Module:
        """The plain counterpart of `module`, which shares nothing with it."""
        if id(module) not in self._made:
            self._made[id(module)] = self._make(module)
        made: nn.Module = self._made[id(module)]
        return made

    def _make(self, module: nn.Module) -> nn.Module:
        if isinstance(module, SwitchLayer):
            return self.layer(module)
        if isinstance(module, SwitchBatchNorm2d):
            return static_batch_norm(module)
        if isinstance(module, Switchable):
            return module.static(self)
        for child in module.children():
            self.module(child)
        # As the memo of deepcopy, `_made` replaces originals by their counterparts; everything else is copied.
        return copy.deepcopy(module, self._made)

    def layer(self, layer: SwitchLayer) -> nn.Module:
        """A plain torch layer if the space keeps it float, else a Brevitas layer."""
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
        made.to(layer.weight.device, layer.weight.dtype)
        self._copy_weight(layer, made)
        made.weight.requires_grad_(layer.weight.requires_grad)
        with torch.no_grad():
            bias = layer.active_bias()
            if bias is not None:
                made.bias.copy_(bias)  # type: ignore[operator]
            if layer.weight_bits is not None:
                _copy_scales(layer.weight_quant[str(layer.weight_bits)], made.weight_quant)
            if layer.act_bits is not None:
                self._copy_input_quant(layer, made)
        return made.train(layer.training)

    def _copy_weight(self, layer: SwitchLayer, made: Any) -> None:
        """Copies the active weight; a full weight that is tied to another layer stays tied."""
        weight = layer.active_weight()
        whole = weight.shape == layer.weight.shape
        if whole and id(layer.weight) in self._made:
            made.weight = self._made[id(layer.weight)]
            return
        with torch.no_grad():
            made.weight.copy_(weight)
        if whole:
            self._made[id(layer.weight)] = made.weight

    def _copy_input_quant(self, layer: SwitchLayer, made: Any) -> None:
        """Copies the clip of the active bits; layers that shared a quantizer still share one."""
        assert layer.input_quant is not None
        assert layer.act_bits is not None
        shared = self._inputs.setdefault((id(layer.input_quant), layer.act_bits), made.input_quant)
        if shared is not made.input_quant:
            made.input_quant = shared
            shared.add_tracked_module(made)  # Brevitas re-creates the parameters of the quantizer here
        clip = layer.input_quant.clip(layer.act_bits)
        (copied,) = shared.to(clip.device, clip.dtype).parameters()
        copied.copy_(clip)


def _copy_scales(switchable: nn.Module, plain: Any) -> None:
    """Copies the learned scales of the active channels, if there are any."""
    for source, target in zip(switchable.parameters(), plain.parameters(), strict=True):
        target.copy_(source[: len(target)])


def static_batch_norm(norm: SwitchBatchNorm2d) -> nn.BatchNorm2d:
    """The ordinary BatchNorm of the active channels."""
    made = nn.BatchNorm2d(norm.active, eps=norm.eps, momentum=norm.momentum)
    made.to(norm.weight.device, norm.weight.dtype)
    with torch.no_grad():
        weight, bias = norm.affine()
        made.weight.copy_(weight)
        made.bias.copy_(bias)
        for name in ("running_mean", "running_var"):
            getattr(made, name).copy_(getattr(norm, name)[: norm.active])
    return made.train(norm.training)


@contextmanager
def parameters_stay() -> Iterator[None]:
    """Makes `load_state_dict` copy into the parameters of quantizers while open; Brevitas would re-create them.

    An optimizer that was built before would then still update the old parameters.
    """
    before, config.REINIT_ON_STATE_DICT_LOAD = config.REINIT_ON_STATE_DICT_LOAD, False
    try:
        yield
    finally:
        config.REINIT_ON_STATE_DICT_LOAD = before


@contextmanager
def plain_tensors(model: nn.Module) -> Iterator[None]:
    """Makes the quantizers of Brevitas layers return plain values while open, if the layer needs only values.

    They also read the weight directly: Brevitas slices it, and the gradient of the slice is three passes over memory.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, QuantLayer) and not _needs_scales(layer)]
    whole = [layer for layer in layers if "quant_weight" not in vars(layer)]  # not set by an outer context
    proxies = [proxy for layer in layers for proxy in (layer.weight_quant, layer.input_quant)]
    before = [proxy.skip_create_quant_tensor for proxy in proxies]
    for proxy in proxies:
        values_only(proxy)
    for layer in whole:  # torch returns a tensor unchanged for several full slices, but not for a single one
        layer.quant_weight = partial(layer.quant_weight, subtensor_slice_list=[None, None])
    try:
        yield
    finally:
        for layer in whole:
            del layer.quant_weight  # restores the method of the class
        for proxy, wanted in zip(proxies, before, strict=True):
            values_only(proxy, wanted)


def _needs_scales(layer: QuantLayer) -> bool:
    """Whether a layer needs the scales of its input and weight."""
    return bool(layer.return_quant_tensor or layer.bias_quant.is_quant_enabled or layer.output_quant.is_quant_enabled)


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
    """Whether the input quantizer of a layer is signed; None if the input is float."""
    if read_bits(layer)[1] is None:
        return None
    return bool(layer.input_quant.is_signed)
