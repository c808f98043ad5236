"""The configuration of a run: what a person may set in YAML or by `--set`, validated and documented field by field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spos_quant.errors import ConfigError, near

M = TypeVar("M", bound=BaseModel)
MAX_YAML_BYTES = 1_000_000
MAX_YAML_VALUES = 200_000
"""Values in a YAML text, those behind aliases counted as often as they are named."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and values of another type."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, strict=True, allow_inf_nan=False
    )


class TrainConfig(Strict):
    """How the supernet is trained, and, with other defaults, how the winner is retrained."""

    epochs: int = Field(default=120, ge=1)
    """Passes over the training split."""
    batch_size: int = Field(default=128, ge=1)
    """Images per optimizer step, over all devices."""
    lr: float = Field(default=0.1, gt=0)
    """Peak learning rate of SGD; a cosine takes it to 0."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Linear warm-up from 0, counted inside `epochs`; at most half of them is used."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Nesterov momentum; 0 is plain SGD."""
    weight_decay: float = Field(default=4e-5, ge=0)
    """L2 on the weights of convolutions and linear layers; never on BatchNorm, biases or activation clips."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Probability mass spread over all classes."""
    clip_grad: float = Field(default=5.0, ge=0)
    """Largest L2 norm of the gradient; 0 switches clipping off."""
    distill: float = Field(default=0.0, ge=0, le=1)
    """Share of the loss that compares with the float model's answers; 0 is off."""
    precision: str = Field(default="32-true", pattern=r"^(32-true|bf16-mixed)$")
    """Lightning Fabric's name: `32-true`, or `bf16-mixed` for bf16 autocast."""
    devices: int = Field(default=1, ge=1)
    """Number of devices, in Lightning Fabric's sense."""
    data_workers: int = Field(default=0, ge=0)
    """Processes that prepare batches; 0 prepares them in this one."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """A checkpoint is written when this time has passed since the last one."""
    checkpoint_steps: int = Field(default=0, ge=0)
    """A checkpoint is written every so many steps too; 0 leaves it to the time."""
    nonfinite: str = Field(default="stop", pattern=r"^(stop|skip)$")
    """What to do where a loss or gradient is not finite: `stop` with an error, or `skip` the step."""


class RetrainConfig(TrainConfig):
    """Quantization-aware training of the found subnet."""

    epochs: int = Field(default=240, ge=1)
    """Passes over the training split."""
    init: str = Field(default="inherit", pattern=r"^(inherit|fresh)$")
    """`inherit` starts from the supernet's weights, `fresh` from new ones."""


class SearchConfig(Strict):
    """The evolutionary search and how it judges a candidate."""

    population: int = Field(default=50, ge=2)
    """Architectures per generation."""
    generations: int = Field(default=20, ge=1)
    """Generations, the random first one included."""
    parents: int = Field(default=10, ge=1)
    """The best architectures so far that may have children."""
    crossover: int = Field(default=25, ge=0)
    """Children of two parents per generation."""
    mutation: int = Field(default=25, ge=0)
    """Mutated children per generation; what is left of the population is drawn anew."""
    mutation_prob: float = Field(default=0.1, ge=0, le=1)
    """Probability that one axis of a mutated child is drawn anew."""
    recalibration_images: int = Field(default=1024, ge=1)
    """Training images, augmented as in training, that BatchNorm statistics are recomputed from."""
    batch_size: int = Field(default=256, ge=1)
    """Images per forward pass of an evaluation."""
    max_images: int | None = Field(default=None, ge=1)
    """The first so many images of search-val that score a candidate; all where null."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one evaluation, whatever the number of workers: sums, and with them last bits, depend on it."""


def validate(model: type[M], raw: object, where: str) -> M:
    """`raw`, usually read from YAML, as a validated `model`.

    Raises:
        ConfigError: names the first wrong key as `where.key`, what was expected and what was given.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping of keys to values, got {describe(raw)}")
    try:
        # YAML has no tuples, so sequences are coerced; scalars stay strict.
        return model.model_validate(_tuples(dict(raw)))
    except ValidationError as error:
        raise ConfigError(_explain(model, error, where)) from None
    except RecursionError:
        raise ConfigError(f"{where}: values are nested too deeply") from None


def describe(value: object) -> str:
    """`value` for a message: its type and, where short, itself."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return (
        tuple(_tuples(item) for item in value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    )


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in (where, *first["loc"]) if str(part))
    if first["type"] == "extra_forbidden":
        owner = _owner(model, first["loc"][:-1])
        return f"{path}: unknown key{near(first['loc'][-1], owner.model_fields)}"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("dictionary", "mapping")
    got = "" if ", got " in message else f", got {describe(first['input'])}"
    return f"{path}: {message[:1].lower()}{message[1:]}{got}"


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that owns the keys at `loc` inside `model`."""
    for part in loc:
        field = model.model_fields.get(str(part))
        inner = [] if field is None else [field.annotation, *get_args(field.annotation)]
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), model)
    return model


class _Loader(yaml.SafeLoader):
    """YAML without objects, whose mappings may not hold a key twice and whose aliases may not multiply endlessly."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            self._weigh(node, {})
        return node

    def _weigh(self, node: yaml.Node, weights: dict[int, int]) -> int:
        """How many values a node stands for; raises where a key appears twice or there are too many."""
        if id(node) in weights:
            if not weights[id(node)]:
                raise _problem("an alias inside of what it names", node)
            return weights[id(node)]
        weights[id(node)] = 0  # open
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            inner = [value for _, value in inner]
        weight = 1 + sum(self._weigh(value, weights) for value in inner)
        if weight > MAX_YAML_VALUES:
            raise _problem(f"more than {MAX_YAML_VALUES:,} values", node)
        weights[id(node)] = weight
        return weight

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _problem("a key must be a word or a number", key_node)
            if key_node.tag == "tag:yaml.org,2002:merge":
                # PyYAML takes the wrong value where a merged mapping has merged another.
                raise _problem("merge keys (<<) are not read; write the keys out", key_node)
            key = self.construct_object(key_node)
            if key in seen:
                raise _problem(f"key {key!r} appears twice", key_node)
            seen.add(key)


# YAML 1.1 reads `1e-3`, without a dot, as a word.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _problem(what: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; objects and code are never constructed.

    Raises:
        ConfigError: no such file, binary, too large, no valid YAML, empty or no mapping.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_YAML_BYTES:
        raise ConfigError(f"{path}: {len(raw):,} bytes; a search space has at most {MAX_YAML_BYTES:,}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text (byte {error.start}); expected a YAML file") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a YAML text; `where` names it in messages. Raises `ConfigError` as `read_yaml` does."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        if "python/" in problem or "could not determine a constructor" in problem:
            raise ConfigError(
                f"{where}: asks for an object ({problem[:160]}); only plain YAML is read, nothing was run"
            ) from None
        raise ConfigError(f"{where}: is no valid YAML: {problem[:240]}") from None
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: is no valid YAML: {type(error).__name__} {str(error)[:120]}") from None
    if value is None:
        raise ConfigError(f"{where}: is empty; expected a mapping of keys to values")
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping of keys to values, got {describe(value)}")
    return value


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
    if not equals or not path.strip():
        raise ConfigError(f"--set {assignment!r}: expected SECTION.KEY=VALUE, such as --set train.epochs=5")
    if section not in sections:
        raise ConfigError(f"--set {path}: unknown section or key {section!r}{near(section, sections)}")
    model = sections[section]
    if (model is None) == bool(dot):
        expected = f"{section}=VALUE" if model is None else f"{section}.KEY=VALUE"
        raise ConfigError(f"--set {assignment!r}: expected {expected}")
    if model is not None and key not in model.model_fields:
        raise ConfigError(f"--set {path}: unknown key{near(key, model.model_fields)}")
    try:
        value = yaml.load(text, _Loader)
        if model is not None and type(value) is int and model.model_fields[key].annotation is float:
            value = float(value)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        raise ConfigError(f"--set {path}: {text!r} is no YAML value") from None
    if model is None:
        tree[section] = value
    else:
        tree.setdefault(section, {})[key] = value
