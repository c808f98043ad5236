"""Architecture strings of other projects, by backbone: read and printed in addition to candidate indices."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spos_quant.errors import SpaceError
from spos_quant.registry import Registry


@dataclass(frozen=True)
class Notation:
    """How a project writes an architecture as a string."""

    read: Callable[[str], dict[str, str] | None]
    """Parses a string to an operator per axis name (`BlockShapes.axis`); None if it is in another notation.
    Raises `SpaceError` if it is in this notation but invalid."""
    write: Callable[[Mapping[str, str]], str]
    """The inverse."""


notations: Registry[Notation] = Registry("architecture notation", builtin_modules=("spos_quant.space.notation",))
"""By backbone."""

_NODES = 3
_EDGE = re.compile(r"([a-z0-9_]+)~([0-9])")
_EXPECTED = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"


def _read_nasbench201(text: str) -> dict[str, str] | None:
    if "|" not in text:
        return None
    found: dict[str, str] = {}
    for node, part in enumerate(text.strip().split("+"), 1):
        edges = [_EDGE.fullmatch(edge) for edge in part.strip("|").split("|")]
        for edge in edges:
            if edge is None or int(edge[2]) >= node or f"{node}<-{edge[2]}" in found:
                raise SpaceError(f"architecture {text!r}: expected {_EXPECTED}, each edge once")
            found[f"{node}<-{edge[2]}"] = edge[1]
    if len(found) != _NODES * (_NODES + 1) // 2:
        raise SpaceError(f"architecture {text!r}: expected {_EXPECTED}, got {len(found)} edges of 6")
    return found


def _write_nasbench201(ops: Mapping[str, str]) -> str:
    nodes = range(1, _NODES + 1)
    return "+".join("|" + "".join(f"{ops[f'{node}<-{source}']}~{source}|" for source in range(node)) for node in nodes)


notations.register("nasbench201")(Notation(_read_nasbench201, _write_nasbench201))
