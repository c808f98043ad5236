"""Builds HTML from Python values. Strings are escaped unless they are `Markup`, so no text of a run becomes markup."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

_EMPTY = frozenset({"meta", "br", "col"})


class Markup(str):
    """Text that is HTML already. All other children of an element are escaped."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as HTML: `Markup` unchanged, None as an empty string, all else escaped."""
    if value is None:
        return Markup()
    if isinstance(value, Markup):
        return value
    # File names may hold undecodable bytes (surrogates); the page must still encode as UTF-8.
    return Markup(escape(str(value).encode("utf-8", "replace").decode("utf-8")))


def element(name: str, *children: object, attributes: Mapping[str, object] | None = None) -> Markup:
    """An HTML element.

    Args:
        name: Tag and classes: `td.number.quiet`.
        children: Contents in order, escaped unless they are `Markup`; None is left out.
        attributes: Values by name. True writes the name alone; None and False are left out.
    """
    tag, *classes = name.split(".")
    given: dict[str, object] = {"class": " ".join(classes) or None, **(attributes or {})}
    opened = [tag]
    for key, value in given.items():
        if value is True:
            opened.append(key)
        elif value is not None and value is not False:
            opened.append(f'{key}="{text(value)}"')
    if tag in _EMPTY:
        return Markup(f"<{' '.join(opened)}>")
    return Markup(f"<{' '.join(opened)}>{''.join(map(text, children))}</{tag}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Concatenates parts, each escaped unless it is `Markup`; the separator `between` is HTML."""
    return Markup(between.join(map(text, parts)))


def json_text(value: object) -> Markup:
    """JSON for a `script` element; it can neither end the element nor open a comment.

    NaN and infinities become null.
    """
    dumped = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return Markup(dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value


def number_cell(shown: object, value: float | None, *, css: str = "") -> Markup:
    """A right-aligned table cell that sorts by `value`; None sorts last."""
    return element(f"td.number{css}", shown, attributes={"data-value": value})


def table(
    head: Sequence[Markup], rows: Iterable[Markup], *, label: str, css: str = "", foot: Markup | None = None
) -> Markup:
    """A table in a box that scrolls by touch, mouse or keyboard.

    Args:
        head: The cells of the head.
        rows: `tr` elements, or `tbody` elements if rows are grouped.
        label: What the table shows, for screen readers.
        css: More classes, each with its dot.
        foot: The `tr` of the foot.
    """
    body = join(rows)
    inside = element(
        f"table{css}",
        element("thead", element("tr", *head)),
        body if body.startswith("<tbody") else element("tbody", body),
        element("tfoot", foot) if foot else None,
        attributes={"aria-label": label},
    )
    return element("div.scroll", inside, attributes={"tabindex": 0, "role": "region", "aria-label": label})


def head_cell(title: object, *, number: bool = False, hint: str | None = None) -> Markup:
    """A header cell of a table."""
    return element(f"th{'.number' if number else ''}", title, attributes={"scope": "col", "title": hint})


def section(name: str, title: str, *children: object) -> Markup:
    """A section of the page that the navigation links to."""
    head = element("h2", title, attributes={"id": f"{name}-title"})
    return element("section", head, *children, attributes={"id": name, "aria-labelledby": f"{name}-title"})


def plot(name: str, label: str) -> Markup:
    """The container of a plot that the page's script draws."""
    return element("div.plot", attributes={"id": name, "role": "figure", "aria-label": label})


def command_line(command: str) -> Markup:
    """A command with a button that copies it."""
    button = element("button.copy", "Copy", attributes={"type": "button", "aria-label": f"Copy {command}"})
    return element("div.command", element("code", command), button)
