"""`sq.quantize` and `sq.apply_bits`: supernets and plain Brevitas models from any `nn.Module`."""

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
    """Converts a copy of an existing network to a supernet over bit-widths.

    Every Conv1d, Conv2d, ConvTranspose2d and Linear module that runs becomes switchable, without tracing. Modules that
    are used in several places stay shared. Tied weights stay tied and share their bits. `supernet.subnet(a)` returns
    the network with plain Brevitas layers.

    Args:
        model: Any module, trained or not; it is not changed.
        example: Input of the model: a tensor, or a sequence of arguments. The first dimension is the batch.
        bits: Pairs of weight bits and bits of the layer's input, 1 to 8; None or "float" for either.
        bits_per: `layer`, or `block`: layers of one block of the module tree share their bits.
        keep_float: Module names, globs, or `first` and `last` in order of execution.
        overrides: By module name, block or glob: `{"layer4.*": {"bits": [(4, 4)]}}`; the last match wins.
        groups: Lists of names or globs whose layers share their bits.
        calibrate: Batches from which clips and signs are calibrated. Each is an input, or a sequence that starts with
            it, as a loader's (images, labels). The first 256 images are used. None uses `example` only.
        quantizer: Registered weight and activation quantizer, joined by `+`.

    Raises:
        ModelError: The model has no layer to quantize, or fails on the example.
        SpaceError: Bits are outside 1 to 8, or a pattern matches nothing.
    """
    converted = _Converted(model, example, calibrate)
    if converted.skipped.layers:
        warnings.warn(converted.skipped_message(), stacklevel=2)
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
    """Builds a plain Brevitas model with the bits of a configuration, for quantization-aware training without a search.

    Args:
        model: A float model, or a Brevitas model, whose layers then get these bits; it is not changed.
        config: A bit configuration: a file, a mapping or JSON text, with every layer of the model and no other.
        example: Input of the model, as in `quantize`.
        calibrate: Calibration batches, as in `quantize`.

    Returns:
        The quantized model, with calibrated activation clips. Its train/eval mode is that of `model`.

    Raises:
        SpaceError: `config` is not a bit configuration, lacks a layer, names an unknown one, or differs in channels.
        ModelError: The model cannot be converted, or fails on the example.
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
    """A copy of a model with switchable layers, and its inputs."""

    def __init__(self, model: nn.Module, example: Any, calibrate: Iterable[Any] | None) -> None:
        if not isinstance(model, nn.Module):
            raise ModelError(f"expected a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, torch.jit.ScriptModule):
            raise ModelError("expected a Python module, got one of TorchScript; give the model that it was made from")
        self.model = model
        self.example: Inputs = tuple(example) if isinstance(example, (list, tuple)) else (example,)
        if not (
            self.example and isinstance(self.example[0], Tensor) and self.example[0].dim() and len(self.example[0])
        ):
            raise ModelError(
                "expected an example batch: a tensor with at least one image, or a sequence that starts with one"
            )
        self.batches = [self.example] if calibrate is None else self._calibration_batches(calibrate)
        try:
            self.body = copy.deepcopy(model)
        except Exception as error:
            raise ModelError(f"the model cannot be copied: {type(error).__name__}: {error}") from error
        self.skipped = swap_layers(self.body, [self.example, *self.batches])
        builder = BlockBuilder(parse_spec(self._raw({}), "quantize()", images=False))
        builder.units, builder.float_ends = tree_units(self.body), self.skipped.ends
        modes = {module: module.training for module in self.body.modules()}
        self.network_shapes: NetworkShapes = body_shapes(self.body, builder, self._one_image())
        for module, mode in modes.items():
            module.training = mode

    def _one_image(self) -> Inputs:
        return tuple(item[:1] if isinstance(item, Tensor) and item.dim() else item for item in self.example)

    def _calibration_batches(self, calibrate: Iterable[Any]) -> list[Inputs]:
        """The first batches of a loader, up to at least 256 images, as inputs on the model's device."""
        parameter = next(self.model.parameters(), None)
        found: list[Inputs] = []
        images = 0
        for item in [calibrate] if isinstance(calibrate, Tensor) else calibrate:
            inputs = (item,) if isinstance(item, Tensor) else tuple(item)[: len(self.example)]
            if not (inputs and isinstance(inputs[0], Tensor)):
                raise ModelError(
                    f"calibrate yields {type(item).__name__} without a tensor as first item; expected x or (x, y)"
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
        """Lists of names of layers that share one weight tensor and therefore must share their bits."""
        found: dict[int, list[str]] = {}
        for name, module in self.body.named_modules():
            if isinstance(module, SwitchLayer):
                found.setdefault(id(module.weight), []).append(escape(name))
        return [names for names in found.values() if len(names) > 1]

    def skipped_message(self) -> str:
        """The warning about layers that were not replaced and about multiply-adds outside of layers."""
        skipped = self.skipped.layers
        named = "; ".join(skipped[:5]) + (f"; and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        other = self.network_shapes.other_macs
        macs = (
            f" {other:,} multiply-adds per image are outside of quantizable modules and counted as float."
            if other
            else ""
        )
        return f"{len(skipped)} layers stay float: {named}.{macs}"

    def check(self, wanted: BitConfig) -> None:
        """Checks a configuration against the layers and applies its signs. Raises `SpaceError` if it does not fit."""
        channels = {layer.name: layer.shapes[0].out_channels for layer in self.network_shapes.layers}
        for name, bits in wanted.layers.items():
            if name not in channels:
                if (bits.weight_bits, bits.act_bits) == (None, None):
                    continue  # float anyway
                raise SpaceError(
                    f"bit configuration names a layer {name!r} that the model does not have{near(name, channels)}"
                )
            if bits.out_channels not in (None, channels[name]):
                raise SpaceError(
                    f"layer {name!r} has {channels[name]} output channels, the bit configuration says "
                    f"{bits.out_channels}: it belongs to a network of another width"
                )
        if wanted.residual_bits is not None:
            raise SpaceError(
                f"the bit configuration quantizes residual additions to {wanted.residual_bits} bits, but they are not "
                "modules of this model; set residual_bits to null to leave them float"
            )
        self._apply_signs(wanted)
        for name in channels:
            if name not in wanted.layers:
                raise SpaceError(
                    f"layer {name!r} is missing in the bit configuration{near(name, wanted.layers)}; "
                    "give it null for float"
                )

    def _apply_signs(self, wanted: BitConfig) -> None:
        """Sets `signed` from the configuration. Raises `SpaceError` if a signed input would become unsigned."""
        for name, bits in wanted.layers.items():
            if bits.act_bits is None or bits.signed is None:
                continue
            layer = self.body.get_submodule(name)
            assert isinstance(layer, SwitchLayer)
            if layer.signed and not bits.signed:
                raise SpaceError(
                    f"layer {name!r} reads negative values, which an unsigned quantizer would clip to 0; "
                    "set signed to true, or leave it out"
                )
            layer.signed = bits.signed

    def supernet(self, where: str, settings: Mapping[str, Any]) -> Supernet:
        """Builds the supernet with these search space settings and calibrates its clips."""
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
