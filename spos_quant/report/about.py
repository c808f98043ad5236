"""The sections on the next commands, the configuration and the environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spos_quant.report.facts import Data
from spos_quant.report.markup import Markup, command_line, element, join, section


def commands_section(data: Data) -> Markup | None:
    """The next commands, each with a button that copies it; None if there are none."""
    commands = data.get("commands") or ()
    if not commands:
        return None
    items = [element("li", element("span", item["what"]), command_line(item["command"])) for item in commands]
    return section("commands", "Next commands", element("ul.commands", *items))


def about_section(data: Data) -> Markup:
    """The configuration, one fold per section, and the environment."""
    config = dict(data.get("config") or {})
    nested = {key: value for key, value in config.items() if isinstance(value, Mapping) and value}
    plain = {key: value for key, value in config.items() if key not in nested}
    parts = [_fold("Configuration", plain)] if plain else []
    parts += [_fold(f"Configuration: {key}", value) for key, value in nested.items()]
    if data.get("environment"):
        parts.append(_fold("Environment", data["environment"], opened=True))
    if not parts:
        parts = [element("p.empty", "Neither configuration nor environment is recorded.")]
    return section("about", "Configuration and environment", element("div.folds", *parts))


def _fold(title: str, values: Mapping[str, Any], *, opened: bool = False) -> Markup:
    rows = [
        element("tr", element("th", key, attributes={"scope": "row"}), element("td", _shown(value)))
        for key, value in _flat(values)
    ]
    values_table = element("div.scroll", element("table.values", element("tbody", *rows)))
    return element("details", element("summary", title), values_table, attributes={"open": opened})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flattens nested mappings to dotted keys, the form that `--set` takes."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _shown(value: Any) -> Markup:
    if value is None or value in ([], {}, ()):
        return element("span.quiet", "none")
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, (list, tuple)):
        return join((str(list(item)) if isinstance(item, (list, tuple)) else item for item in value), ", ")
    return join((value,))
