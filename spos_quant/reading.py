"""Reads text files and YAML from users: sizes are limited, no objects are constructed, duplicate keys are errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from spos_quant.errors import ConfigError

MAX_BYTES = 1_000_000
"""Largest size of a search space, configuration or bit configuration; real ones are hundreds of times smaller."""
MAX_YAML_VALUES = 20_000
"""Largest number of keys and values in a YAML text; each alias counts all values of its anchor."""
MAX_DEPTH = 40
"""Largest nesting of lists and mappings."""
_LONGEST_NUMBER = 100
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# What PyYAML's constructors raise for `!!int ""`, `!!bool maybe`, `!!timestamp soon`, 2026-99-99, 1:59:59...
_BAD_SCALAR = (ArithmeticError, AttributeError, LookupError, RecursionError, ValueError)
# NUL and lone surrogates, which YAML can escape. U+DC80 to U+DCFF are allowed: Python uses them for path bytes that are
# not UTF-8.
_INVALID_CHARACTER = re.compile("[\\0\\ud800-\\udc7f\\udd00-\\udfff]")


def describe(value: object) -> str:
    """The type and the shortened `repr` of a value, for messages."""
    value = list(value) if isinstance(value, tuple) else value  # lists of YAML were converted to tuples
    return f"{type(value).__name__} {shorten(repr(value))}"


def shorten(text: str) -> str:
    """At most 60 characters of a text, for messages."""
    return text if len(text) <= 60 else text[:57] + "..."


def shown(key: object) -> str:
    """The shortened `repr` of a key, for messages."""
    return shorten(repr(key))


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses duplicate keys.

    Values are counted while they are read, so that a text of a million brackets or of nested aliases is refused at
    once; PyYAML would take a minute.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._weights: dict[int, int] = {}
        """Number of values per node, by `id`."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; raises if there are too many values, too deep nesting or duplicate keys."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._weights:
                raise _problem("an alias inside the value that it refers to", event)
            self._count(self._weights[id(node)], event)
            return node
        before = self._values
        self._count(1, event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _problem(f"values nested more than {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._check(node)
        self._weights[id(node)] = self._values - before
        return node

    def _count(self, values: int, event: yaml.Event) -> None:
        self._values += values
        if self._values > MAX_YAML_VALUES:
            raise _problem(f"more than {MAX_YAML_VALUES:,} values", event)

    def _check(self, node: yaml.Node | None) -> None:
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        elif isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
                raise _problem(f"a number of {len(node.value):,} characters", node)
            if _INVALID_CHARACTER.search(node.value):
                raise _problem("a character that is not text (NUL or a lone surrogate)", node)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _problem("a key must be a word or a number", key_node)
            if key_node.tag == "tag:yaml.org,2002:merge":
                # PyYAML takes the wrong value if a merged mapping has itself merged another.
                raise _problem("merge keys (<<) are not read; write the keys out", key_node)
            key = self.construct_object(key_node)
            if key in seen:
                raise _problem(f"key {shown(key)} appears twice", key_node)
            seen.add(key)


# YAML 1.1 reads `1e-3`, which has no dot, as a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _problem(what: str, at: yaml.Node | yaml.Event) -> yaml.YAMLError:
    mark: Any = at.start_mark
    return yaml.constructor.ConstructorError(None, None, what, mark)


def read_text(path: Path, what: str) -> str:
    """The UTF-8 text of a small file, without its byte order mark; `what` names the expected content in messages.

    Raises:
        ConfigError: the file does not exist, is too large or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)  # bounded, since /dev/zero has no end
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected {what}") from None
    except ValueError as error:  # a NUL character in the path
        raise ConfigError(f"{str(path)!r}: cannot be read ({error}); expected {what}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES:,} bytes; expected {what}, which is smaller")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text (byte {error.start}); expected {what}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; objects and code are never constructed.

    Raises:
        ConfigError: the file does not exist, is binary, too large, invalid YAML, empty or not a mapping.
    """
    return parse_yaml(read_text(path, "a YAML file"), str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a YAML text; `where` names it in messages. Raises `ConfigError` as `read_yaml` does."""
    try:
        value = load(text)
    except YamlError as error:
        problem = str(error)
        if "python/" in problem or "could not determine a constructor" in problem:
            raise ConfigError(
                f"{where}: asks for an object ({problem[:160]}); only plain YAML is read, nothing was run"
            ) from None
        raise ConfigError(f"{where}: is no valid YAML: {problem[:240]}") from None
    if value is None:
        raise ConfigError(f"{where}: is empty; expected a mapping of keys to values")
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping of keys to values, got {describe(value)}")
    return value


class YamlError(Exception):
    """A text that is not valid YAML; the message is one line."""


def load(text: str) -> Any:
    """The value of a YAML text, of any type. Raises `YamlError`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None
    except _BAD_SCALAR as error:
        raise YamlError(f"{type(error).__name__} {' '.join(str(error).split())}") from None
