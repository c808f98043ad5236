"""Text of architectures: one line per block or layer with its operator, width and bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from spos_quant.report.facts import Result
from spos_quant.report.text import bits

Layer = Mapping[str, Any]
Group = tuple[str | None, list[Layer]]


def places(describe: Mapping[str, Any]) -> list[str]:
    """An architecture as text, one line per block or layer: `layer1.0: conv3x3, width 1.0, w2a4`.

    An axis is named after the block or layer that uses it (`layer1.0.op`); a shared axis keeps its own name.
    """
    lines: dict[str, list[str]] = {}
    for axis, value in describe.items():
        place, _, kind = axis.rpartition(".")
        if kind not in _FORMATTERS:
            place, kind = axis, ""
        lines.setdefault(place, []).append(_FORMATTERS.get(kind, _plain)(value))
    return [f"{place}: {', '.join(parts)}" for place, parts in lines.items()]


def _plain(value: Any) -> str:
    return _pair(value) if isinstance(value, (list, tuple)) else str(value)


def _pair(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        weight, act = value
        return "float" if weight is None and act is None else f"w{bits(weight)}a{bits(act)}"
    return str(value)


def candidate_text(kind: str, value: Any) -> str:
    """A candidate of an axis as text: `w2a4`, `conv3x3`, `width 0.5`."""
    return _FORMATTERS.get(kind, _plain)(value)


_FORMATTERS: Mapping[str, Callable[[Any], str]] = {
    "op": str,
    "width": lambda value: f"width {value}",
    "bits": _pair,
    "weight_bits": lambda value: f"weights {bits(value)}",
    "act_bits": lambda value: f"inputs {bits(value)}",
}


def grouped(result: Result) -> list[Group]:
    """Layers in order of execution, grouped by choice block. Blocks without layers keep their position."""
    names = list(result.get("blocks") or {})

    def block_of(layer: Layer) -> str | None:
        inside = [b for b in names if layer["name"] == b or layer["name"].startswith(f"{b}.")]
        return max(inside, key=len, default=None)

    groups: list[Group] = [(block, list(layers)) for block, layers in groupby(result["layers"], block_of)]
    present = [block for block, _ in groups]
    for i, name in enumerate(names):
        if name not in present:
            # After the previous block; the first block goes to the front.
            before = names[i - 1] if i else None
            place = present.index(before) + 1 if before in present else 0
            groups.insert(place, (name, []))
            present.insert(place, name)
    return groups


def result_places(result: Result) -> list[str]:
    """A result in the format of `places`; float layers are left out."""
    lines = []
    for block, layers in grouped(result):
        if block is None:
            lines += [f"{layer['name']}: {pair}" for layer in layers for pair in _pairs([layer])]
            continue
        choice = result["blocks"][block]
        parts = (choice["op"], f"width {choice['width']}", *_pairs(layers))
        lines.append(f"{block}: {', '.join(parts)}")
    return lines


def _pairs(layers: Iterable[Layer]) -> list[str]:
    """The distinct bit pairs of some quantized layers, in order of first appearance."""
    found = [(layer["weight_bits"], layer["act_bits"]) for layer in layers]
    return [_pair(pair) for pair in dict.fromkeys(found) if pair != (None, None)]


def bits_span(result: Result, key: str) -> str:
    """The range of bits of all quantized layers, such as `1–4` or `4`; empty for a float network."""
    found = [layer[key] for layer in result.get("layers") or () if layer[key] is not None]
    if not found:
        return ""
    return str(min(found)) if min(found) == max(found) else f"{min(found)}\u2013{max(found)}"
