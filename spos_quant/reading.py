"""Text files and YAML from people: read with limits on everything, no object made, no key taken twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from spos_quant.errors import ConfigError

MAX_BYTES = 1_000_000
"""Of a search space, a configuration or a bit configuration; they are hundreds of times smaller."""
MAX_YAML_VALUES = 20_000
"""Keys and values in a YAML text, those behind aliases counted as often as they are named."""
MAX_DEPTH = 40
"""Lists and mappings inside one another."""
_LONGEST_NUMBER = 100
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# What PyYAML's constructors raise over `!!int ""`, `!!bool maybe`, `!!timestamp soon`, 2026-99-99, 1:59:59...
_BAD_SCALAR = (ArithmeticError, AttributeError, LookupError, RecursionError, ValueError)
# YAML can escape these; half pairs from dc80 to dcff are how Python spells the bytes of a path that is not UTF-8.
_IN_NO_PATH = re.compile("[\\0\\ud800-\\udc7f\\udd00-\\udfff]")


def describe(value: object) -> str:
    """`value` for a message: its type and, where short, itself."""
    value = list(value) if isinstance(value, tuple) else value  # as it was written
    return f"{type(value).__name__} {shorten(repr(value))}"


def shorten(text: str) -> str:
    """A text for a message, at most 60 characters of it."""
    return text if len(text) <= 60 else text[:57] + "..."


def shown(key: object) -> str:
    """A key for a message, in quotes where it is a text."""
    return shorten(repr(key))


class _Loader(yaml.SafeLoader):
    """YAML without objects, whose mappings may not hold a key twice.

    Values are counted while they are read, so that a text of a million brackets or of aliases that multiply is refused
    at once: PyYAML would take a minute over it.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._weights: dict[int, int] = {}
        """By node, how many values it stands for."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; raises where the text holds too much, too deep, or a key twice."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._weights:
                raise _problem("an alias inside of what it names", event)
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
            if _IN_NO_PATH.search(node.value):
                raise _problem("a character that no text has (NUL or half of a pair)", node)

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
                raise _problem(f"key {shown(key)} appears twice", key_node)
            seen.add(key)


# YAML 1.1 reads `1e-3`, without a dot, as a word.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _problem(what: str, at: yaml.Node | yaml.Event) -> yaml.YAMLError:
    mark: Any = at.start_mark
    return yaml.constructor.ConstructorError(None, None, what, mark)


def read_text(path: Path, what: str) -> str:
    """The UTF-8 text of a file that is small by nature, with or without a byte order mark.

    Raises:
        ConfigError: no such file, too large or no UTF-8; `what` says in the message what it should have been.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)  # never the whole of /dev/zero
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
    """The mapping that a YAML file holds; objects and code are never constructed.

    Raises:
        ConfigError: no such file, binary, too large, no valid YAML, empty or no mapping.
    """
    return parse_yaml(read_text(path, "a YAML file"), str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a YAML text; `where` names it in messages. Raises `ConfigError` as `read_yaml` does."""
    try:
        value = load(text)
    except Unreadable as error:
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


class Unreadable(Exception):
    """Why a text is no YAML that we read, in one line."""


def load(text: str) -> Any:
    """What a YAML text says, of any kind. Raises `Unreadable`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise Unreadable(" ".join(str(error).split())) from None
    except _BAD_SCALAR as error:
        raise Unreadable(f"{type(error).__name__} {' '.join(str(error).split())}") from None
