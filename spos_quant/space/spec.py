"""The YAML of a search space, validated before anything is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from spos_quant.config import RayConfig, RetrainConfig, SearchConfig, Strict, SupernetTrainConfig, validate
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.reading import describe, read_yaml

MAX_CANDIDATES = 100
"""Largest number of candidates per axis: more than a search needs, few enough to measure."""
MAX_SIDE = 4096
"""Largest height or width of an image."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
Bits = int | None
"""A bit-width of 1 to 8, or None for float."""


def _read_bits(value: object) -> Bits:
    if value is None or value == "float":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8:
        raise ValueError(f"expected a bit-width of 1 to 8, or float, got {describe(value)}")
    return value


def _read_width(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 16:
        raise ValueError(f"expected a width factor above 0 and up to 16, got {describe(value)}")
    return float(value)


BitWidth = Annotated[Bits, BeforeValidator(_read_bits)]
Width = Annotated[float, BeforeValidator(_read_width)]


class AxesSpec(Strict):
    """Candidates of a choice block; an absent key takes the value of the space, else of the backbone."""

    op: tuple[str, ...] | None = None
    """Operators, by registered name."""
    width: tuple[Width, ...] | None = None
    """Factors on the block's inner channels."""
    bits: tuple[tuple[BitWidth, BitWidth], ...] | None = None
    """Pairs of weight bits and bits of the layer's input; either may be `float`."""
    weight_bits: tuple[BitWidth, ...] | None = None
    """Weight bits as a separate axis; requires `act_bits`."""
    act_bits: tuple[BitWidth, ...] | None = None
    """Activation bits as a separate axis; requires `weight_bits`."""

    @field_validator("op", "width", "bits", "weight_bits", "act_bits")
    @classmethod
    def _not_empty_not_twice(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if value is None:
            return value
        if not value:
            raise ValueError("an axis needs at least one candidate")
        if len(set(value)) < len(value):
            raise ValueError("a candidate appears twice")
        if len(value) > MAX_CANDIDATES:
            raise ValueError(f"an axis takes at most {MAX_CANDIDATES} candidates, got {len(value)}")
        return value

    @model_validator(mode="after")
    def _one_way_to_give_bits(self) -> AxesSpec:
        if self.bits is not None and (self.weight_bits is not None or self.act_bits is not None):
            raise ValueError("give either `bits` (pairs) or `weight_bits` and `act_bits`, not both")
        if (self.weight_bits is None) != (self.act_bits is None):
            raise ValueError("`weight_bits` and `act_bits` go together")
        return self

    def updated(self, other: AxesSpec) -> AxesSpec:
        """These axes, with those that `other` gives replaced."""
        given = {key: value for key, value in other if value is not None}
        if "bits" in given:
            given |= {"weight_bits": None, "act_bits": None}
        elif "weight_bits" in given:
            given["bits"] = None
        return self.model_copy(update=given)


class SpaceSpec(Strict):
    """The specification of a search space; `search_spaces/` holds the built-in ones."""

    name: str
    """Name in run directories and reports."""
    backbone: str
    """A registered backbone."""
    weights: str | None = None
    """A file of float weights to start from: safetensors, or a state dict that loads without running code."""
    input: tuple[int, ...] = Field(min_length=1)
    """Shape of one input: `[C, H, W]` of an image; in Python, any shape."""
    classes: int = Field(ge=2, le=1_000_000)
    """Number of classes."""
    axes: AxesSpec = AxesSpec()
    """Candidates of every choice block."""
    bits_per: str = Field(default="block", pattern=r"^(block|layer)$")
    """`block`: the layers of a block share their bits; `layer`: each layer has its own."""
    keep_float: tuple[str, ...] = ("first", "last")
    """Layers that are never quantized or searched: module or block names, globs, `first` or `last` (by execution)."""
    overrides: dict[str, AxesSpec] = Field(default_factory=dict)
    """Candidates by block name, module name or glob; the last match wins, a single candidate is fixed."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Lists of module or block names whose layers share one bits axis."""
    residual_bits: None = None
    """Reserved for quantized residual additions; must be null."""
    quantizer: str = "midrise+pact"
    """Registered weight quantizer and activation quantizer, joined by `+`."""
    batch_norm: str = Field(default="shared", pattern=r"^(shared|per-bits)$")
    """Affine parameters of a BatchNorm: `shared` by all bit-widths, or one set per bit-width of the preceding layer."""
    data: str | None = None
    """The data set if the command line gives none; never code."""
    train: SupernetTrainConfig = SupernetTrainConfig()
    """How the supernet is trained."""
    retrain: RetrainConfig = RetrainConfig()
    """How the subnet found by the search is retrained."""
    search: SearchConfig = SearchConfig()
    """How the supernet is searched."""
    rank: dict[str, Any] = Field(default_factory=dict)
    """Keys that replace those of `retrain` in the trainings of a ranking, for example `{iterations: 500}`."""
    ray: RayConfig = RayConfig()
    """Ray resources of one evaluator."""
    log: tuple[str, ...] = ()
    """Registered loggers of training curves and search scores: one name or a list."""

    @field_validator("log", mode="before")
    @classmethod
    def _one_logger(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _name_is_a_word(cls, value: str) -> str:
        # The name becomes part of file names.
        if not _NAME.fullmatch(value):
            raise ValueError(
                "expected a word of at most 64 letters, digits, dots, dashes and underscores that starts with a letter "
                "or digit"
            )
        return value

    @field_validator("data")
    @classmethod
    def _data_is_no_code(cls, value: str | None) -> str | None:
        head, colon, tail = (value or "").partition(":")
        if colon and "." in head and re.fullmatch(r"\w+", tail):
            raise ValueError("a search space may not name code; give package.module:function as --data")
        return value

    @model_validator(mode="after")
    def _rank_is_of_retrain(self) -> SpaceSpec:
        _ = self.ranked
        return self

    @property
    def ranked(self) -> RetrainConfig:
        """How the networks of a ranking are trained stand-alone: `retrain` updated by `rank`."""
        recipe = self.retrain.model_dump(mode="json")
        if "epochs" in self.rank:
            recipe["iterations"] = None  # `iterations` would override `epochs`
        return validate(RetrainConfig, recipe | self.rank, "rank")

    @property
    def retrain_quantizer(self) -> str:
        """The quantizers of the retrained model."""
        return self.retrain.quantizer or self.quantizer

    @property
    def full_precision(self) -> bool:
        """Whether the space offers no bit-widths, so that it searches float networks."""
        offered = [self.axes, *self.overrides.values()]
        return all(_float_only(axes) for axes in offered)

    def structure(self) -> dict[str, Any]:
        """What determines the float network and its shapes: operators and widths, not bits or recipes."""
        wider = {pattern: axes for pattern, axes in self.overrides.items() if axes.op or axes.width}
        shapes = {pattern: {"op": axes.op, "width": axes.width} for pattern, axes in ({"": self.axes} | wider).items()}
        return {"backbone": self.backbone, "input": self.input, "classes": self.classes, "axes": list(shapes.items())}


def _float_only(axes: AxesSpec) -> bool:
    pairs = axes.bits or ()
    return not any(b is not None for pair in (*pairs, axes.weight_bits or (), axes.act_bits or ()) for b in pair)


def parse_spec(raw: Mapping[str, Any], where: str, *, images: bool = True) -> SpaceSpec:
    """Validates the specification of a search space.

    Args:
        raw: The mapping of a YAML file.
        where: Names its source in messages.
        images: Whether the input must be an image.

    Raises:
        SpaceError: unknown key, wrong type or invalid value; the message names the key.
    """
    try:
        spec = validate(SpaceSpec, raw, where)
    except ConfigError as error:
        raise SpaceError(str(error)) from None
    if spec.train.distill and spec.weights is None:
        raise SpaceError(
            f"{where}.train.distill: a supernet is distilled from the float model of `weights`, which are not given; "
            "give weights, or use retrain.distill"
        )
    if images and not (len(spec.input) == 3 and min(spec.input) >= 1 and max(spec.input) <= MAX_SIDE):
        raise SpaceError(
            f"{where}.input: expected channels, height and width between 1 and {MAX_SIDE}, got {describe(spec.input)}"
        )
    return spec


def read_spec(path: Path) -> SpaceSpec:
    """The search space in a YAML file. Raises `ConfigError` or `SpaceError`; the message names the invalid key."""
    return parse_spec(read_yaml(path), path.name)
