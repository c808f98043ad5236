"""`sq.quantize` and `sq.apply_bits`: supernets and plain Brevitas models out of anybody's `nn.Module`."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.convert.swap import Inputs, swap_layers, tree_units
from spos_quant.errors import ModelError, SpaceError, near
from spos_quant.quant.switch import SwitchLayer
from spos_quant.space.bit_config import BitConfig, parse_bit_config, read_bit_config
from spos_quant.space.resolve import resolve
from spos_quant.space.shapes import NetworkShapes
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.calibrate import calibrate_clips
from spos_quant.supernet.dry_run import body_shapes
from spos_quant.supernet.network import BlockBuilder
from spos_quant.supernet.supernet import Supernet

CALIBRATION_IMAGES = 256


def quantize(
    model: nn.Module,
    example: Tensor | Sequence[Any],
    bits: Sequence[Sequence[Any]] = ((2, 2), (4, 4), (8, 8)),
    *,
    bits_per: str = "layer",
    keep_float: Sequence[str] = ("first", "last"),
    overrides: Mapping[str, Any] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    calibrate: Iterable[Any] | None = None,
    quantizer: str = "midrise+pact",
) -> Supernet:
    """A supernet over the bit-widths of a network that is already there; the model passed in is not changed.

    Every Conv1d, Conv2d, ConvTranspose2d and Linear module that runs becomes switchable, in a copy; nothing is traced.
    Modules in several places stay shared, tied weights stay tied and share their bits. `supernet.subnet(a)` gives the
    copy back with plain Brevitas layers.

    Args:
        model: Any module, trained or not.
        example: What the model is called with: a tensor, or a sequence of arguments; the first dimension is the batch.
        bits: Pairs of weight bits and bits of the layer's input, 1 to 8, or None or "float" for either.
        bits_per: `layer`, or `block`: layers of one block of the module tree share their bits.
        keep_float: Module names, globs, or `first` and `last` in order of execution.
        overrides: By module name, block or glob: `{"layer4.*": {"bits": [(4, 4)]}}`; the last match wins.
        groups: Lists of names or globs whose layers share their bits.
        calibrate: Batches that clips and signs come from, each an input, or a sequence that starts with it, as a loader
            yields (images, labels); the first 256 images are used. The example alone where None.
        quantizer: Registered quantizers.

    Raises:
        ModelError: no layer to quantize, or an example that the model cannot run on.
        SpaceError: bits outside 1 to 8, or a pattern that matches nothing.
    """
    converted = _Converted(model, example, calibrate)
    if converted.left.layers:
        warnings.warn(converted.said(), stacklevel=2)
    return converted.supernet(
        "quantize()",
        {
            "axes": {"bits": bits},
            "bits_per": bits_per,
            "keep_float": keep_float,
            "overrides": overrides or {},
            "groups": [*(groups or ()), *converted.tied()],
            "quantizer": quantizer,
        },
    )


def apply_bits(
    model: nn.Module,
    config: str | Path | Mapping[str, Any] | BitConfig,
    example: Tensor | Sequence[Any],
    *,
    calibrate: Iterable[Any] | None = None,
) -> nn.Module:
    """A plain Brevitas model with the bits of a configuration, ready to be retrained; there is no search.

    Args:
        model: A float model, or a Brevitas one, whose layers then get these bits; it is not changed.
        config: A bit configuration: a file, a mapping or JSON text, with every layer of the model and no other.
        example: What the model is called with.
        calibrate: As in `quantize`.

    Returns:
        The model in the mode of the one passed in, activation clips calibrated.

    Raises:
        SpaceError: no bit configuration, a layer that misses or that the model has not, or other channels.
        ModelError: a model or an example that does not work.
    """
    wanted = _config(config)
    converted = _Converted(model, example, calibrate)
    converted.check(wanted)
    kept = [name for name, b in wanted.layers.items() if (b.weight_bits, b.act_bits) == (None, None)]
    overrides = {
        escape(name): {"weight_bits": [b.weight_bits], "act_bits": [b.act_bits]}
        for name, b in wanted.layers.items()
        if name not in kept
    }
    settings = {
        "axes": {"weight_bits": [None], "act_bits": [None]},
        "bits_per": "layer",
        "keep_float": [escape(name) for name in kept],
        "overrides": overrides,
        **({} if wanted.quantizer is None else {"quantizer": wanted.quantizer}),
    }
    return converted.supernet("apply_bits()", settings).subnet(())


class _Converted:
    """A copy of a model with switchable layers, and what it is called with."""

    def __init__(self, model: nn.Module, example: Any, calibrate: Iterable[Any] | None) -> None:
        if not isinstance(model, nn.Module):
            raise ModelError(f"expected a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, torch.jit.ScriptModule):
            raise ModelError(
                "expected a module of Python, got one of TorchScript; give the model that it was made from"
            )
        self.model = model
        self.example: Inputs = tuple(example) if isinstance(example, (list, tuple)) else (example,)
        if not (
            self.example and isinstance(self.example[0], Tensor) and self.example[0].dim() and len(self.example[0])
        ):
            raise ModelError(
                "expected an example batch: a tensor with at least one image, or a sequence that starts so"
            )
        self.batches = [self.example] if calibrate is None else self._some(calibrate)
        try:
            self.body = copy.deepcopy(model)
        except Exception as error:
            raise ModelError(f"the model cannot be copied: {type(error).__name__}: {error}") from error
        self.left = swap_layers(self.body, [self.example, *self.batches])
        builder = BlockBuilder(parse_spec(self._raw({}), "quantize()", images=False))
        builder.units, builder.float_ends = tree_units(self.body), self.left.ends
        modes = {module: module.training for module in self.body.modules()}
        self.network_shapes: NetworkShapes = body_shapes(self.body, builder, self._one_image())
        for module, mode in modes.items():
            module.training = mode

    def _one_image(self) -> Inputs:
        return tuple(item[:1] if isinstance(item, Tensor) and item.dim() else item for item in self.example)

    def _some(self, calibrate: Iterable[Any]) -> list[Inputs]:
        """The first 256 images of a loader, as inputs on the model's device."""
        parameter = next(self.model.parameters(), None)
        found: list[Inputs] = []
        images = 0
        for item in [calibrate] if isinstance(calibrate, Tensor) else calibrate:
            inputs = (item,) if isinstance(item, Tensor) else tuple(item)[: len(self.example)]
            if not (inputs and isinstance(inputs[0], Tensor)):
                raise ModelError(
                    f"calibrate yields {type(item).__name__} without a tensor in front; expected x or (x, y)"
                )
            if parameter is not None:
                inputs = tuple(x.to(parameter.device) if isinstance(x, Tensor) else x for x in inputs)
            found.append(inputs)
            images += len(inputs[0])
            if images >= CALIBRATION_IMAGES:
                break
        if not images:
            raise ModelError("calibrate yields no images; give a list or a loader of batches")
        return found

    def _raw(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", type(self.model).__name__)
        shape = list(self.example[0].shape[1:]) or [1]
        return {"name": name[:64], "backbone": type(self.model).__name__, "input": shape, "classes": 2, **settings}

    def tied(self) -> list[list[str]]:
        """Names of layers that use one weight, which can only have one bit-width."""
        found: dict[int, list[str]] = {}
        for name, module in self.body.named_modules():
            if isinstance(module, SwitchLayer):
                found.setdefault(id(module.weight), []).append(escape(name))
        return [names for names in found.values() if len(names) > 1]

    def said(self) -> str:
        """What a person should know of the layers that were left alone."""
        left = self.left.layers
        named = "; ".join(left[:5]) + (f"; and {len(left) - 5} more" if len(left) > 5 else "")
        other = self.network_shapes.other_macs
        macs = (
            f" {other:,} multiply-adds an image are outside of quantizable modules and counted as float."
            if other
            else ""
        )
        return f"{len(left)} layers stay float: {named}.{macs}"

    def check(self, wanted: BitConfig) -> None:
        """Holds a configuration against the layers. Raises `SpaceError`."""
        channels = {layer.name: layer.shapes[0].out_channels for layer in self.network_shapes.layers}
        for name, bits in wanted.layers.items():
            if name not in channels:
                if (bits.weight_bits, bits.act_bits) == (None, None):
                    continue  # float anyway
                raise SpaceError(
                    f"bit configuration names a layer {name!r} that the model has not{near(name, channels)}"
                )
            if bits.out_channels not in (None, channels[name]):
                raise SpaceError(
                    f"layer {name!r} has {channels[name]} output channels, the bit configuration says "
                    f"{bits.out_channels}: it is of another width"
                )
        if wanted.residual_bits is not None:
            raise SpaceError(
                f"the bit configuration quantizes residual additions to {wanted.residual_bits} bits, which are no "
                "modules of this model; set residual_bits to null to leave them float"
            )
        self._take_signs(wanted)
        for name in channels:
            if name not in wanted.layers:
                raise SpaceError(
                    f"layer {name!r} is missing in the bit configuration{near(name, wanted.layers)}; "
                    "give it null for float"
                )

    def _take_signs(self, wanted: BitConfig) -> None:
        """Makes inputs signed where the configuration says so; one that was negative cannot become unsigned."""
        for name, bits in wanted.layers.items():
            if bits.act_bits is None or bits.signed is None:
                continue
            layer = self.body.get_submodule(name)
            assert isinstance(layer, SwitchLayer)
            if layer.signed and not bits.signed:
                raise SpaceError(
                    f"layer {name!r} reads negative values, which an unsigned quantizer would cut off; "
                    "set signed to true, or leave it out"
                )
            layer.signed = bits.signed

    def supernet(self, where: str, settings: Mapping[str, Any]) -> Supernet:
        """The supernet over these settings of a space, clips calibrated."""
        space = resolve(parse_spec(self._raw(settings), where, images=False), self.network_shapes)
        training = {module: module.training for module in self.body.modules()}
        supernet = Supernet(space, self.body)
        supernet.train(self.model.training)
        for module, mode in training.items():
            module.training = mode
        parameter = next(self.model.parameters())
        supernet.to(parameter.device)
        calibrate_clips(supernet, self.batches, running_statistics=True)
        return supernet


def _config(config: str | Path | Mapping[str, Any] | BitConfig) -> BitConfig:
    if isinstance(config, BitConfig):
        return config
    if isinstance(config, Mapping):
        return parse_bit_config(config, "the bit configuration")
    if isinstance(config, str) and config.lstrip().startswith("{"):
        try:
            return parse_bit_config(json.loads(config), "the bit configuration")
        except ValueError as error:
            raise SpaceError(f"the bit configuration is no JSON text ({error})") from None
    return read_bit_config(Path(config))
