"""Bit configurations (`*.bits.json`): every layer's bits and every block's operator and width, for people and tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from spos_quant.config import Strict, validate
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.reading import describe, read_text
from spos_quant.run_dir import check
from spos_quant.space.spec import Bits

FORMAT = "spos-quant/bit-config/1"
_UNIFORM = re.compile(r"w([1-9]\d*)a([1-9]\d*)", re.IGNORECASE)


class LayerBits(Strict):
    """Bits of one layer; null is float."""

    weight_bits: int | None = Field(ge=1, le=32)
    """Bits of the weights."""
    act_bits: int | None = Field(ge=1, le=32)
    """Bits of the layer's input."""
    out_channels: int | None = Field(default=None, ge=1)
    """Output channels; given if the width was searched."""
    signed: bool | None = None
    """Whether the quantizer of the input is signed."""


class BlockChoice(Strict):
    """The operator and width of a choice block."""

    op: str
    """Registered operator."""
    width: float
    """Factor on the block's inner channels."""


class BitConfig(Strict):
    """A bit configuration: an architecture as a file that people and tools exchange."""

    format: Literal["spos-quant/bit-config/1"]
    """Name and version of this format."""
    model: str
    """The network whose module names are the keys of `layers`."""
    input: tuple[Annotated[int, Field(ge=1)], ...]
    """Shape of one image: channels, height, width."""
    activation_bits_at: Literal["layer input"]
    """The tensor that `act_bits` applies to."""
    layers: dict[str, LayerBits]
    """Bits by module name of the float model."""
    blocks: dict[str, BlockChoice] = Field(default_factory=dict)
    """Operators and widths by block name; given if they were searched."""
    quantizer: str | None = None
    """Registered quantizers."""
    residual_bits: int | None = None
    """Bits of quantized residual additions."""
    cost: dict[str, Any] = Field(default_factory=dict)
    """For information; not read."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """For information; not read. Holds neither dates nor durations."""

    @property
    def is_float(self) -> bool:
        """Whether no layer is quantized."""
        return all(bits.weight_bits is None and bits.act_bits is None for bits in self.layers.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values in a fixed order, without empty keys."""
        raw = self.model_dump(mode="json")
        for layer in raw["layers"].values():
            for key in ("out_channels", "signed"):
                if layer[key] is None:
                    del layer[key]
        empty = [key for key in ("blocks", "quantizer", "residual_bits", "cost", "provenance") if not raw[key]]
        return {key: value for key, value in raw.items() if key not in empty}


def parse_bit_config(raw: object, where: str) -> BitConfig:
    """Validates a bit configuration; `where` names its source in messages. Raises `SpaceError` if it is invalid."""
    if not isinstance(raw, Mapping):
        raise SpaceError(f"{where}: expected a bit configuration (a JSON object), got {describe(raw)}")
    given = raw.get("format")
    if given != FORMAT:
        raise SpaceError(f"{where}: format: expected {FORMAT!r}, got {describe(given)}")
    try:
        return validate(BitConfig, raw, where)
    except (ConfigError, ValidationError) as error:
        raise SpaceError(str(error)) from None


def read_bit_config(path: Path) -> BitConfig:
    """The bit configuration in a file. Raises `SpaceError` if invalid, `RunError` if its checksum does not match."""
    check(path)
    try:
        text = read_text(path, "a bit configuration (JSON)")
        raw = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_reject_constant)
    except ConfigError as error:
        raise SpaceError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise SpaceError(f"{path}: is no JSON text ({str(error)[:120]}); expected a bit configuration") from None
    return parse_bit_config(raw, str(path))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises if a key appears twice, since `json` would silently keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return found


def _reject_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def parse_uniform(text: str) -> tuple[Bits, Bits] | None:
    """`w3a4` as (3, 4), `float` as (None, None); None if `text` is neither. Raises `SpaceError` above 8 bits."""
    if text.lower() == "float":
        return None, None
    match = _UNIFORM.fullmatch(text)
    if match is None:
        return None
    weight_bits, act_bits = int(match[1]), int(match[2])
    if not (weight_bits <= 8 and act_bits <= 8):
        raise SpaceError(f"{text!r}: expected 1 to 8 bits each, such as w4a4, or `float`")
    return weight_bits, act_bits
