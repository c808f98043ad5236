"""Replaces the layers of any network by switchable ones, module by module, in place."""

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
"""The positional arguments of a network's forward."""
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Observed:
    """Observations made during forward passes."""

    negative: dict[nn.Module, bool] = field(default_factory=dict)
    """Per layer that ran, in order of execution: whether any of its inputs had a negative value."""
    inside: str = ""
    """The name of the module that was entered last, for error messages."""


@dataclass(frozen=True)
class Skipped:
    """The layers that were not replaced."""

    layers: tuple[str, ...]
    """One text per layer: name, type and reason."""
    ends: tuple[str, ...]
    """`first` and/or `last`, if the first or the last layer that ran is among them."""


def swap_layers(body: nn.Module, batches: Iterable[Inputs]) -> Skipped:
    """Replaces every Conv1d, Conv2d, ConvTranspose2d and Linear that runs by a switchable layer of the same parameters.

    A module that is used in several places is replaced by one shared layer. An input is signed if a negative value was
    observed.

    Args:
        body: The network; it is changed in place.
        batches: Inputs; the network runs on each in evaluation mode without gradients.

    Returns:
        The layers that were not replaced.

    Raises:
        ModelError: The network fails on its inputs, is a single layer, or has no layer that can be replaced.
    """
    names = {module: name for name, module in body.named_modules()}
    if "" in (names[m] for m in names if is_plain(m)):
        raise ModelError("the model is a single layer, which has no name; wrap it in nn.Sequential")
    observed = observe(body, [m for m in names if isinstance(m, _LAYERS)], batches)
    skipped, swapped = [], dict[nn.Module, SwitchLayer]()
    for layer, name in names.items():
        reason = _reason(layer, observed)
        if reason is None:
            made = SwitchLayer(layer, signed=observed.negative[layer])
            swapped[layer] = made.train(layer.training)
        elif reason:
            skipped.append(f"{name} ({type(layer).__name__}): {reason}")
    if not swapped:
        raise ModelError(
            "the model has no layer that can be quantized: expected Conv1d, Conv2d, ConvTranspose2d or Linear modules "
            "that run; " + ("; ".join(skipped) or "it has none of them")
        )
    for parent in names:
        if isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0  # disables the fused kernel, which would bypass the replaced layers
        for key, child in parent._modules.items():
            if child in swapped:
                parent._modules[key] = swapped[child]
    ran = list(observed.negative)
    ends = tuple(word for word, layer in (("first", ran[0]), ("last", ran[-1])) if layer not in swapped)
    return Skipped(tuple(skipped), ends)


def _reason(layer: nn.Module, observed: Observed) -> str | None:
    """The reason why a layer is not replaced; None if it is replaced, empty if its type is not quantizable at all."""
    if not is_plain(layer):
        return "a subclass, which may compute something else" if isinstance(layer, _LAYERS) else ""
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1:
        return "a transposed convolution of several groups, for which Brevitas has no scale per channel"
    if layer not in observed.negative:
        return "its forward never runs"
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return "its weight is computed from other parameters"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return "it has hooks, which would be lost"
    return None


def observe(model: nn.Module, layers: Iterable[nn.Module], batches: Iterable[Inputs]) -> Observed:
    """Runs a network in evaluation mode and observes the inputs of `layers`. Raises `ModelError` if it fails."""
    observed = Observed()
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, _inputs: Inputs) -> None:
        observed.inside = names[module]

    def read(module: nn.Module, inputs: Inputs, output: Any) -> None:
        x = inputs[0] if inputs else None
        if not (isinstance(x, Tensor) and isinstance(output, Tensor)):
            return
        negative = x.device.type == "meta" or bool((x < 0).any())
        observed.negative[module] = observed.negative.get(module, False) or negative

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for module in names:
            stack.callback(module.register_forward_pre_hook(enter).remove)
        for layer in layers:
            stack.callback(layer.register_forward_hook(read).remove)
        for inputs in batches:
            call(model, inputs, lambda: observed.inside)
    return observed


def evaluating(model: nn.Module) -> ExitStack:
    """A context with the model in evaluation mode and without gradients. On exit every module gets its mode back."""
    stack = ExitStack()
    stack.enter_context(torch.no_grad())

    def restore(modes: dict[nn.Module, bool]) -> None:
        for module, mode in modes.items():
            module.training = mode

    stack.callback(restore, {module: module.training for module in model.modules()})
    model.eval()
    return stack


def call(model: nn.Module, inputs: Inputs, inside: Callable[[], str] = lambda: "") -> Any:
    """Runs the network and returns its output. If it fails, raises `ModelError` with the name of the failing module."""
    first = next((t for t in inputs if isinstance(t, Tensor)), None)
    shape = "nothing" if first is None else f"shape {tuple(first.shape)}, {first.dtype} on {first.device}"
    try:
        return model(*inputs)
    except Exception as error:
        where = f" in module {inside()!r}" if inside() else ""
        parameter = next(iter(model.parameters()), None)
        parameters = "" if parameter is None else f"; its parameters are {parameter.dtype} on {parameter.device}"
        raise ModelError(
            f"the example ({shape}) does not fit the model: it fails{where} with {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}{parameters}"
        ) from error


def tree_units(body: nn.Module) -> dict[str, str]:
    """Maps the name of each switchable layer to the name of the block that contains it.

    A block is the outermost item of a module list (Sequential, ModuleList, ModuleDict) that is neither a list itself
    nor the layer. Examples: `layer1.0` of a ResNet, `features.3` of a MobileNet. Layers outside of blocks are left out.
    """
    modules = dict(body.named_modules(remove_duplicate=False))
    found = {}
    for name, module in modules.items():
        if not isinstance(module, SwitchLayer):
            continue
        parts = name.split(".")
        for depth in range(1, len(parts)):
            parent, own = ".".join(parts[: depth - 1]), ".".join(parts[:depth])
            if isinstance(modules[parent], _LISTS) and not isinstance(modules[own], _LISTS):
                found[name] = own
                break
    return found
