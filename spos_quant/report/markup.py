"""HTML from Python values, escaped unless marked: no string of a run can become markup by being forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

_EMPTY = frozenset({"meta", "br", "col"})


class Markup(str):
    """Text that is HTML already; everything else that is put into an element is escaped."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as HTML: `Markup` as it is, None as nothing, all else escaped."""
    if value is None:
        return Markup()
    if isinstance(value, Markup):
        return value
    # File names may hold bytes that are no text; the page must still be writable as UTF-8.
    return Markup(escape(str(value).encode("utf-8", "replace").decode("utf-8")))


def element(name: str, *children: object, attributes: Mapping[str, object] | None = None) -> Markup:
    """An element with its children in order.

    Args:
        name: Tag, then classes: `td.number.quiet`.
        children: Escaped unless they are `Markup`; None is left out.
        attributes: By name. True stands alone, None and False are left out.
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
    """Parts in a row, each escaped unless it is `Markup`; `between` is HTML."""
    return Markup(between.join(map(text, parts)))


def json_text(value: object) -> Markup:
    """JSON that stands inside a `script` element: it can neither end the element nor open a comment.

    Numbers that JSON does not have (NaN, infinities) become null.
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
    """A table cell to the right that sorts by `value`; without one it sorts last."""
    return element(f"td.number{css}", shown, attributes={"data-value": value})


def table(
    head: Sequence[Markup], rows: Iterable[Markup], *, label: str, css: str = "", foot: Markup | None = None
) -> Markup:
    """A table that scrolls inside its own box, by finger, mouse or keyboard.

    Args:
        head: The cells of the head.
        rows: `tr` elements, or `tbody` elements where a row groups several.
        label: What the table shows, for screen readers.
        css: Further classes, each with its dot.
        foot: A `tr` below the line.
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
    """A cell of a table's head."""
    return element(f"th{'.number' if number else ''}", title, attributes={"scope": "col", "title": hint})


def section(name: str, title: str, *children: object) -> Markup:
    """A part of the page that the navigation leads to."""
    head = element("h2", title, attributes={"id": f"{name}-title"})
    return element("section", head, *children, attributes={"id": name, "aria-labelledby": f"{name}-title"})


def plot(name: str, label: str) -> Markup:
    """Where the page's script draws a plot."""
    return element("div.plot", attributes={"id": name, "role": "figure", "aria-label": label})


def command_line(command: str) -> Markup:
    """A command with a button that copies it."""
    button = element("button.copy", "Copy", attributes={"type": "button", "aria-label": f"Copy {command}"})
    return element("div.command", element("code", command), button)
