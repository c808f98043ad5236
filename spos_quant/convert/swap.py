"""Layers of any network swapped for switchable ones, module by module, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.errors import ModelError
from spos_quant.quant.kinds import is_plain
from spos_quant.quant.switch import SwitchLayer

Inputs = tuple[Any, ...]
"""What a network is called with."""
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Watched:
    """What passes of a network saw."""

    negative: dict[nn.Module, bool] = field(default_factory=dict)
    """Per layer that ran, in order of execution, whether it ever read a negative value."""
    inside: str = ""
    """The module that ran last, for messages."""


@dataclass(frozen=True)
class Left:
    """What was left alone."""

    layers: tuple[str, ...]
    """Layers, each with the reason."""
    ends: tuple[str, ...]
    """Whether the `first` and the `last` layer that ran are among them."""


def swap_layers(body: nn.Module, batches: Iterable[Inputs]) -> Left:
    """Swaps every Conv1d, Conv2d, ConvTranspose2d and Linear that runs for a switchable layer with the same parameters.

    Layers that are used in several places are swapped for one layer; whether an input may be negative is what was seen.

    Args:
        body: Changed in place.
        batches: Inputs to look at; the network runs on each in evaluation mode, without gradients.

    Returns:
        The layers that were left alone.

    Raises:
        ModelError: the network fails on its inputs, is a single layer, or has none that can be swapped.
    """
    names = {module: name for name, module in body.named_modules()}
    if "" in (names[m] for m in names if is_plain(m)):
        raise ModelError("the model is a single layer, which has no name; wrap it in nn.Sequential")
    watched = watch(body, [m for m in names if isinstance(m, _LAYERS)], batches)
    left, swapped = [], dict[nn.Module, SwitchLayer]()
    for layer, name in names.items():
        reason = _reason(layer, watched)
        if reason is None:
            made = SwitchLayer(layer, signed=watched.negative[layer])
            swapped[layer] = made.train(layer.training)
        elif reason:
            left.append(f"{name} ({type(layer).__name__}): {reason}")
    if not swapped:
        raise ModelError(
            "the model has no layer that can be quantized: expected Conv1d, Conv2d, ConvTranspose2d or Linear modules "
            "that run; " + ("; ".join(left) or "it has none of them")
        )
    for parent in names:
        if isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0  # its fused kernel would take the weights and pass by our layers
        for key, child in parent._modules.items():
            if child in swapped:
                parent._modules[key] = swapped[child]
    ran = list(watched.negative)
    ends = tuple(word for word, layer in (("first", ran[0]), ("last", ran[-1])) if layer not in swapped)
    return Left(tuple(left), ends)


def _reason(layer: nn.Module, watched: Watched) -> str | None:
    """Why a layer is left alone; None where it is swapped, empty where nobody would expect it to be."""
    if not is_plain(layer):
        return "a subclass, which may compute something else" if isinstance(layer, _LAYERS) else ""
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1:
        return "a transposed convolution of several groups, for which Brevitas has no scale per channel"
    if layer not in watched.negative:
        return "its forward never runs"
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return "its weight is computed from other parameters"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return "it has hooks, which would be lost"
    return None


def watch(model: nn.Module, layers: Iterable[nn.Module], batches: Iterable[Inputs]) -> Watched:
    """Runs a network in evaluation mode and looks at what the given layers read. Raises `ModelError` where it fails."""
    watched = Watched()
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, _inputs: Inputs) -> None:
        watched.inside = names[module]

    def read(module: nn.Module, inputs: Inputs, output: Any) -> None:
        x = inputs[0] if inputs else None
        if not (isinstance(x, Tensor) and isinstance(output, Tensor)):
            return
        negative = x.device.type == "meta" or bool((x < 0).any())
        watched.negative[module] = watched.negative.get(module, False) or negative

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for module in names:
            stack.callback(module.register_forward_pre_hook(enter).remove)
        for layer in layers:
            stack.callback(layer.register_forward_hook(read).remove)
        for inputs in batches:
            call(model, inputs, lambda: watched.inside)
    return watched


def evaluating(model: nn.Module) -> ExitStack:
    """While open, the model is in evaluation mode and no gradients are recorded; every module gets its mode back."""
    stack = ExitStack()
    stack.enter_context(torch.no_grad())

    def restore(modes: dict[nn.Module, bool]) -> None:
        for module, mode in modes.items():
            module.training = mode

    stack.callback(restore, {module: module.training for module in model.modules()})
    model.eval()
    return stack


def call(model: nn.Module, inputs: Inputs, inside: Callable[[], str] = lambda: "") -> Any:
    """The network's answer. Raises `ModelError` with the place where it fails."""
    first = next((t for t in inputs if isinstance(t, Tensor)), None)
    shape = "nothing" if first is None else f"shape {tuple(first.shape)}, {first.dtype} on {first.device}"
    try:
        return model(*inputs)
    except Exception as error:
        where = f" in module {inside()!r}" if inside() else ""
        parameter = next(iter(model.parameters()), None)
        home = "" if parameter is None else f"; its parameters are {parameter.dtype} on {parameter.device}"
        raise ModelError(
            f"the example ({shape}) does not fit the model: it fails{where} with {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}{home}"
        ) from error


def tree_units(body: nn.Module) -> dict[str, str]:
    """Per switchable layer, the block of the module tree that it is in.

    That is the outermost item of a list of modules that is no list itself, nor the layer: `layer1.0` of a ResNet,
    `features.3` of a MobileNet.
    """
    modules = dict(body.named_modules(remove_duplicate=False))
    found = {}
    for name, module in modules.items():
        if not isinstance(module, SwitchLayer):
            continue
        parts = name.split(".")
        for depth in range(1, len(parts)):
            above, own = ".".join(parts[: depth - 1]), ".".join(parts[:depth])
            if isinstance(modules[above], _LISTS) and not isinstance(modules[own], _LISTS):
                found[name] = own
                break
    return found
