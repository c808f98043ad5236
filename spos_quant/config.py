"""The configuration of a run: what a person may set in YAML or by `--set`, validated and documented field by field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from spos_quant.errors import ConfigError, near
from spos_quant.reading import MAX_DEPTH, Unreadable, describe, load, shown

M = TypeVar("M", bound=BaseModel)
MAX_COUNT = 10_000_000
"""Epochs, images, generations."""
MAX_POPULATION = 100_000
"""Architectures that are held in memory at once."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and values of another type."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, strict=True, allow_inf_nan=False
    )


class TrainConfig(Strict):
    """How a network is trained: the supernet and, with other defaults, the winner."""

    epochs: int = Field(default=120, ge=1, le=MAX_COUNT)
    """Passes over the training split."""
    iterations: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    """Optimizer steps; where given, they take the place of `epochs`. 0 trains nothing: weights as they are."""
    batch_size: int = Field(default=128, ge=1, le=MAX_COUNT)
    """Images per optimizer step, over all devices."""
    lr: float = Field(default=0.1, gt=0)
    """Peak learning rate of SGD."""
    schedule: str = Field(default="cosine", pattern=r"^(cosine|linear)$")
    """How the learning rate falls from its peak to 0 over the steps after the warm-up."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Linear warm-up from 0, counted inside the training; at most half of its steps is used."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum; 0 is plain SGD."""
    nesterov: bool = True
    """Whether momentum is Nesterov's."""
    weight_decay: float = Field(default=4e-5, ge=0)
    """L2 on the weights of convolutions and linear layers; never on BatchNorm, biases or activation clips."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Probability mass spread over all classes."""
    clip_grad: float = Field(default=5.0, ge=0)
    """Largest L2 norm of the gradient; 0 switches clipping off."""
    distill: float = Field(default=0.0, ge=0, le=1)
    """Share of the loss that compares with the float model's answers; 0 is off."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which then takes their place at the end, such as 0.999; 0 is off."""
    precision: str = Field(default="32-true", pattern=r"^(32-true|bf16-mixed)$")
    """Lightning Fabric's name: `32-true`, or `bf16-mixed` for bf16 autocast."""
    compile: bool | None = None
    """Whether fake quantization runs as compiled loops; null: where the training is long enough to gain by it."""
    channels_last: bool | None = None
    """Whether images and weights lie in memory with their channels last; null: where the training is that long."""
    devices: int = Field(default=1, ge=1, le=1024)
    """Devices of each machine, in Lightning Fabric's sense: a rank each, whose gradients are averaged."""
    num_nodes: int = Field(default=1, ge=1, le=1024)
    """Machines, in Lightning Fabric's sense; with several, torchrun is started on each."""
    strategy: str = Field(default="auto", pattern=r"^(auto|ddp|ddp_find_unused_parameters_true)$")
    """Lightning Fabric's name; `auto` with several ranks: the last, since a path leaves most of a supernet unused."""
    data_workers: int = Field(default=0, ge=0, le=1024)
    """Processes that prepare batches; 0 prepares them in this one."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """A checkpoint is written when this time has passed since the last one."""
    checkpoint_steps: int = Field(default=0, ge=0)
    """A checkpoint is written every so many steps too; 0 leaves it to the time."""
    nonfinite: str = Field(default="stop", pattern=r"^(stop|skip)$")
    """What to do where a loss or gradient is not finite: `stop` with an error, or `skip` the step."""

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return self.devices * self.num_nodes

    def steps(self, per_epoch: int) -> int:
        """Optimizer steps of the whole training, where an epoch has `per_epoch`."""
        return self.epochs * per_epoch if self.iterations is None else self.iterations


def _read_cost(value: object) -> object:
    """A cost as it is typed on the command line; YAML reads plain digits as a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError(f"expected a cost such as 290M, w3a4 or 35%, got {describe(value)}")
    return value if value is None else str(value)


CostText = Annotated[str | None, BeforeValidator(_read_cost)]


class SupernetTrainConfig(TrainConfig):
    """How the supernet is trained: as any network, along paths that a sampler draws."""

    path_sampler: str = "uniform"
    """Registered path sampler: `uniform`, `feasible`, `cost-uniform`, `fair` or `sandwich`."""
    path_metric: str | None = None
    """Cost metric of the next three keys, and of the sandwich; null: bitops, or macs in a full-precision space."""
    path_low: CostText = None
    """Least cost of a path (`290M`, `w3a4`, `35%`); null: the cheapest architecture's."""
    path_high: CostText = None
    """Largest cost of a path; null: the most expensive architecture's."""
    path_bins: int = Field(default=10, ge=1, le=1_000)
    """Bins of equal width between the two, of which `cost-uniform` draws one per step."""
    path_teacher: str = Field(default="none", pattern=r"^(none|bits)$")
    """`bits`: a path learns the answers of its own high-bit version, same operators and widths, most expensive bits."""


class RetrainConfig(TrainConfig):
    """Quantization-aware training of the found subnet."""

    epochs: int = Field(default=240, ge=1, le=MAX_COUNT)
    """Passes over the training split."""
    init: str = Field(default="inherit", pattern=r"^(inherit|fresh)$")
    """`inherit` starts from the supernet's weights, `fresh` from new ones."""
    quantizer: str | None = None
    """Registered quantizers of the retrained model, such as `lsq+pact`; the search space's own where null."""
    progressive: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training over which the bits go down from 8 to the model's own; 0 trains these from the start."""
    fold: float = Field(default=0.0, ge=0, le=1)
    """Steps in the integers of `onnx-int8` and `integers` after the training, as a share of its own; 0 is off."""


class SearchConfig(Strict):
    """The evolutionary search and how it judges a candidate."""

    population: int = Field(default=50, ge=2, le=MAX_POPULATION)
    """Architectures per generation."""
    generations: int = Field(default=20, ge=1, le=MAX_COUNT)
    """Generations, the first population included."""
    parents: int = Field(default=10, ge=1, le=MAX_POPULATION)
    """The best architectures so far that may have children."""
    crossover: int = Field(default=25, ge=0, le=MAX_POPULATION)
    """Children of two parents per generation."""
    mutation: int = Field(default=25, ge=0, le=MAX_POPULATION)
    """Mutated children per generation; what is left of the population is drawn anew."""
    mutation_prob: float = Field(default=0.1, ge=0, le=1)
    """Probability that one axis of a mutated child is drawn anew."""
    first: str = Field(default="uniform", pattern=r"^(random|knapsack|uniform)$")
    """First population of the evolution: `random`, led by `uniform` bits, or by optima of the additive estimate too."""
    rank_by: str = Field(default="top1", pattern=r"^(top1|loss)$")
    """What makes one candidate better than another: `top1`, or `loss`, which few images change less."""
    solutions: int = Field(default=1, ge=1, le=MAX_POPULATION)
    """How many of its best solutions the knapsack evaluates, of which the best wins."""
    estimate: str = Field(default="measured", pattern=r"^(measured|gradient)$")
    """The sensitivities that solutions come from: `measured` by evaluations, or from gradients (bits only)."""
    gradient_images: int = Field(default=512, ge=1, le=MAX_COUNT)
    """Training images, augmented as in training, of the gradient estimate."""
    recalibration_images: int = Field(default=1024, ge=1, le=MAX_COUNT)
    """Training images, augmented as in training, that BatchNorm statistics are recomputed from."""
    batch_size: int = Field(default=256, ge=1, le=MAX_COUNT)
    """Images per forward pass of an evaluation."""
    max_images: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    """So many images of search-val, of all classes in their shares, score a candidate; all where null."""
    finalists: int = Field(default=10, ge=0, le=MAX_POPULATION)
    """Where `max_images` leaves images out, so many of the best are scored on all, of which the best wins; 0: none."""
    int8: bool = False
    """Whether convolutions of a candidate sum integers: faster where a CPU has VNNI, the same but for rounding."""
    prefix_mb: int = Field(default=1024, ge=0, le=MAX_COUNT)
    """Memory for the activations of a candidate, whose first blocks the next one may share; no score depends on it."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one evaluation, whatever the number of workers: sums, and with them last bits, depend on it."""


class RayConfig(Strict):
    """What an evaluator takes of a Ray cluster (`--ray`); no result depends on it."""

    cpus: float | None = Field(default=None, gt=0, le=1024)
    """CPUs of one evaluator; null: as many as `search.threads`."""
    gpus: float | None = Field(default=None, ge=0, le=1024)
    """GPUs of one evaluator, or a share of one such as 0.5; null: one where the cluster has any."""


def validate(model: type[M], raw: object, where: str) -> M:
    """`raw`, usually read from YAML or JSON, as a validated `model`.

    Raises:
        ConfigError: names the first wrong key as `where.key`, what was expected and what was given.
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
    path = ".".join((where, *(_step(part) for part in first["loc"] if str(part))))
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


def _step(part: int | str) -> str:
    """A key in the path of a value: as it is where that is readable."""
    text = str(part)
    return text if text.isprintable() and len(text) <= 60 else shown(text)


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that owns the keys at `loc` inside `model`."""
    for part in loc:
        field = model.model_fields.get(str(part))
        inner = [] if field is None else [field.annotation, *get_args(field.annotation)]
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), model)
    return model


def assign(tree: dict[str, Any], assignment: str, sections: Mapping[str, type[BaseModel] | None]) -> None:
    """Carries out one `--set section.key=value`, or `--set key=value`, on a nested mapping of configuration values.

    Args:
        tree: Changed in place.
        assignment: The text after `--set`.
        sections: What may be set: the model of each section, None for a key that stands alone.

    Raises:
        ConfigError: no `=`, an unknown section or key (with a near match), or a value that is no YAML.
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
    except (Unreadable, OverflowError):
        raise ConfigError(f"--set {path}: {describe(text)} is no YAML value") from None
    if model is None:
        tree[section] = value
    else:
        tree.setdefault(section, {})[key] = value
