"""The configuration of a run, set in YAML or by `--set`: validated and documented field by field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from spos_quant.errors import ConfigError, near
from spos_quant.reading import MAX_DEPTH, YamlError, describe, load, shown

M = TypeVar("M", bound=BaseModel)
MAX_COUNT = 10_000_000
"""Largest number of epochs, images or generations."""
MAX_POPULATION = 100_000
"""Largest number of architectures in memory at once."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and values of a wrong type."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, strict=True, allow_inf_nan=False
    )


class TrainConfig(Strict):
    """How a network is trained: the supernet or, with other defaults, the subnet found by the search."""

    epochs: int = Field(default=120, ge=1, le=MAX_COUNT)
    """Passes over the training split."""
    iterations: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    """Optimizer steps; if given, `epochs` is ignored. 0 keeps the weights as they are."""
    batch_size: int = Field(default=128, ge=1, le=MAX_COUNT)
    """Images per optimizer step, summed over all devices."""
    lr: float = Field(default=0.1, gt=0)
    """Peak learning rate of SGD."""
    schedule: str = Field(default="cosine", pattern=r"^(cosine|linear)$")
    """Decay of the learning rate from its peak to 0 after the warm-up."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Epochs of linear warm-up from 0, part of the training; at most half of its steps."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum; 0 is plain SGD."""
    nesterov: bool = True
    """Whether to use Nesterov momentum."""
    weight_decay: float = Field(default=4e-5, ge=0)
    """L2 on the weights of convolutions and linear layers; never on BatchNorm, biases or activation clips."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Probability mass spread over all classes."""
    clip_grad: float = Field(default=5.0, ge=0)
    """Largest L2 norm of the gradient; 0 switches clipping off."""
    distill: float = Field(default=0.0, ge=0, le=1)
    """Weight of the distillation loss from the float model; the label loss has the rest. 0 is off."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the exponential moving average that replaces the weights at the end, for example 0.999; 0 is off."""
    precision: str = Field(default="32-true", pattern=r"^(32-true|bf16-mixed)$")
    """Precision of Lightning Fabric: `32-true`, or `bf16-mixed` for bf16 autocast."""
    compile: bool | None = None
    """Whether to compile fake quantization; null: if the training is long enough to save time."""
    channels_last: bool | None = None
    """Whether images and weights use the channels-last memory format; null: if the training is long enough."""
    devices: int = Field(default=1, ge=1, le=1024)
    """Devices per machine, as in Lightning Fabric: one rank each, whose gradients are averaged."""
    num_nodes: int = Field(default=1, ge=1, le=1024)
    """Machines, as in Lightning Fabric; with several, start torchrun on each."""
    strategy: str = Field(default="auto", pattern=r"^(auto|ddp|ddp_find_unused_parameters_true)$")
    """Strategy of Lightning Fabric. With several ranks, `auto` is `ddp_find_unused_parameters_true`, since a path
    leaves most of a supernet unused."""
    data_workers: int = Field(default=0, ge=0, le=1024)
    """Processes that prepare batches; 0 prepares them in the main process."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """Minutes between checkpoints."""
    checkpoint_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints, in addition to `checkpoint_minutes`; 0 is off."""
    nonfinite: str = Field(default="stop", pattern=r"^(stop|skip)$")
    """If a loss or gradient is not finite: `stop` with an error, or `skip` the step."""

    @property
    def ranks(self) -> int:
        """Number of distributed training processes."""
        return self.devices * self.num_nodes

    def steps(self, per_epoch: int) -> int:
        """Optimizer steps of the whole training, given the steps `per_epoch`."""
        return self.epochs * per_epoch if self.iterations is None else self.iterations


def _read_cost(value: object) -> object:
    """A cost as text; YAML reads plain digits as a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError(f"expected a cost such as 290M, w3a4 or 35%, got {describe(value)}")
    return value if value is None else str(value)


CostText = Annotated[str | None, BeforeValidator(_read_cost)]


class SupernetTrainConfig(TrainConfig):
    """How the supernet is trained: as any network, on paths that a sampler draws."""

    path_sampler: str = "uniform"
    """Registered path sampler: `uniform`, `feasible`, `cost-uniform`, `fair` or `sandwich`."""
    path_metric: str | None = None
    """Cost metric of `path_low`, `path_high`, `path_bins` and `sandwich`; null: bitops, or macs in full precision."""
    path_low: CostText = None
    """Least cost of a path (`290M`, `w3a4`, `35%`); null: that of the cheapest architecture."""
    path_high: CostText = None
    """Largest cost of a path; null: that of the most expensive architecture."""
    path_bins: int = Field(default=10, ge=1, le=1_000)
    """Bins of equal width between `path_low` and `path_high`; `cost-uniform` draws one per step."""
    path_teacher: str = Field(default="none", pattern=r"^(none|bits)$")
    """`bits`: a path is distilled from the path with the same operators and widths and its most expensive bits."""


class RetrainConfig(TrainConfig):
    """Quantization-aware training of the found subnet."""

    epochs: int = Field(default=240, ge=1, le=MAX_COUNT)
    """Passes over the training split."""
    init: str = Field(default="inherit", pattern=r"^(inherit|fresh)$")
    """`inherit` starts from the supernet's weights, `fresh` from a new initialization."""
    quantizer: str | None = None
    """Registered quantizers of the retrained model, for example `lsq+pact`; null: those of the search space."""
    progressive: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training over which bit-widths decrease from 8 to the final ones; 0 is off."""
    fold: float = Field(default=0.0, ge=0, le=1)
    """Extra steps in the arithmetic of `onnx-int8` and `integers`, as a share of the training's steps; 0 is off."""


class SearchConfig(Strict):
    """The evolutionary search and how it scores a candidate."""

    population: int = Field(default=50, ge=2, le=MAX_POPULATION)
    """Architectures per generation."""
    generations: int = Field(default=20, ge=1, le=MAX_COUNT)
    """Generations, including the first population."""
    parents: int = Field(default=10, ge=1, le=MAX_POPULATION)
    """Number of best architectures so far that children are made from."""
    crossover: int = Field(default=25, ge=0, le=MAX_POPULATION)
    """Children of two parents per generation."""
    mutation: int = Field(default=25, ge=0, le=MAX_POPULATION)
    """Mutated children per generation; the rest of the population is sampled at random."""
    mutation_prob: float = Field(default=0.1, ge=0, le=1)
    """Probability per axis that mutation redraws it."""
    first: str = Field(default="uniform", pattern=r"^(random|knapsack|uniform)$")
    """First population: `random`; `uniform` adds uniform bits; `knapsack` also adds optima of the additive estimate."""
    rank_by: str = Field(default="top1", pattern=r"^(top1|loss)$")
    """What candidates are ranked by: `top1`, or `loss`, which varies less on few images."""
    solutions: int = Field(default=1, ge=1, le=MAX_POPULATION)
    """Number of best knapsack solutions that are evaluated; the best of them is the result."""
    estimate: str = Field(default="measured", pattern=r"^(measured|gradient)$")
    """Sensitivities of the knapsack: `measured` by evaluations, or estimated from gradients (`gradient`, bits only)."""
    gradient_images: int = Field(default=512, ge=1, le=MAX_COUNT)
    """Training images, augmented as in training, for the gradient estimate."""
    recalibration_images: int = Field(default=1024, ge=1, le=MAX_COUNT)
    """Training images, augmented as in training, that BatchNorm statistics are recomputed from."""
    batch_size: int = Field(default=256, ge=1, le=MAX_COUNT)
    """Images per forward pass of an evaluation."""
    max_images: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    """Images of search-val that score a candidate, stratified by class; null: all."""
    finalists: int = Field(default=10, ge=0, le=MAX_POPULATION)
    """If `max_images` leaves images out, this number of best candidates is re-ranked on all images; 0 is off."""
    int8: bool = False
    """Whether convolutions of a candidate use integer arithmetic: faster on CPUs with VNNI, equal up to rounding."""
    prefix_mb: int = Field(default=1024, ge=0, le=MAX_COUNT)
    """MiB to cache activations of a candidate's first blocks for the next candidates; scores do not depend on it."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one evaluation, regardless of the number of workers: rounding of sums depends on it."""


class RayConfig(Strict):
    """Ray resources of one evaluator (`--ray`); results do not depend on them."""

    cpus: float | None = Field(default=None, gt=0, le=1024)
    """CPUs of one evaluator; null: `search.threads`."""
    gpus: float | None = Field(default=None, ge=0, le=1024)
    """GPUs of one evaluator, or a fraction such as 0.5; null: one if the cluster has any."""


def validate(model: type[M], raw: object, where: str) -> M:
    """Validates `raw`, usually read from YAML or JSON, as a `model`.

    Raises:
        ConfigError: the message names the first wrong key as `where.key`, what was expected and what was given.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping of keys to values, got {describe(raw)}")
    try:
        # Neither YAML nor JSON has tuples, so sequences are coerced; scalars stay strict.
        return model.model_validate(_tuples(raw, MAX_DEPTH))
    except ValidationError as error:
        raise ConfigError(_explain(model, error, where)) from None
    except RecursionError:
        raise ConfigError(f"{where}: values are nested too deeply; expected at most {MAX_DEPTH} levels") from None


def _tuples(value: Any, depth: int) -> Any:
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        return value
    if not depth:
        raise RecursionError
    if isinstance(value, Mapping):
        return {key: _tuples(item, depth - 1) for key, item in value.items()}
    return tuple(_tuples(item, depth - 1) for item in value)


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = ".".join((where, *(_key(part) for part in first["loc"] if str(part))))
    if first["type"] == "extra_forbidden":
        owner = _owner(model, first["loc"][:-1])
        return f"{path}: unknown key{near(first['loc'][-1], owner.model_fields)}"
    if first["type"] == "missing":
        return f"{path}: is missing"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("dictionary", "mapping")
    if words := re.fullmatch(r"\^\((\w[\w|-]+)\)\$", first.get("ctx", {}).get("pattern", "")):
        message = f"expected {' or '.join(words[1].split('|'))}"
    got = "" if ", got " in message else f", got {describe(first['input'])}"
    return f"{path}: {message[:1].lower()}{message[1:]}{got}"


def _key(part: int | str) -> str:
    """A key for the path of a value, shortened or escaped if necessary."""
    text = str(part)
    return text if text.isprintable() and len(text) <= 60 else shown(text)


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model whose fields are at `loc` inside `model`."""
    for part in loc:
        field = model.model_fields.get(str(part))
        inner = [] if field is None else [field.annotation, *get_args(field.annotation)]
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), model)
    return model


def assign(tree: dict[str, Any], assignment: str, sections: Mapping[str, type[BaseModel] | None]) -> None:
    """Applies one `--set section.key=value`, or `--set key=value`, to a nested mapping of configuration values.

    Args:
        tree: Changed in place.
        assignment: The text after `--set`.
        sections: The model of each section; None for a key without a section.

    Raises:
        ConfigError: there is no `=`, the section or key is unknown, or the value is not valid YAML.
    """
    path, equals, text = assignment.partition("=")
    section, dot, key = path.strip().partition(".")
    if not equals or not (dot or section in sections):
        guess = near(section, sections) if equals else ""
        raise ConfigError(f"--set {assignment!r}: expected SECTION.KEY=VALUE, such as --set train.epochs=5{guess}")
    if section not in sections:
        raise ConfigError(f"--set {path}: unknown section {section!r}{near(section, sections)}")
    model = sections[section]
    if (model is None) == bool(dot):
        expected = f"{section}=VALUE" if model is None else f"{section}.KEY=VALUE"
        raise ConfigError(f"--set {assignment!r}: expected {expected}")
    if model is not None and key not in model.model_fields:
        raise ConfigError(f"--set {path}: unknown key{near(key, model.model_fields)}")
    try:
        value = load(text)
        if model is not None and type(value) is int and model.model_fields[key].annotation is float:
            value = float(value)
    except (YamlError, OverflowError):
        raise ConfigError(f"--set {path}: {describe(text)} is no YAML value") from None
    if model is None:
        tree[section] = value
    else:
        tree.setdefault(section, {})[key] = value
