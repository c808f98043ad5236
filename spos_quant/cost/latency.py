"""Measured latency as a cost metric: a table of layer latencies, summed over the layers of an architecture.

The table is a CSV file, written by `spos-quant latency` or by the user for a device. Lines that begin with `#` are
comments; the first says what was measured. The columns are `COLUMNS`; `what` is one of

    layer     latency of a layer at these bits (empty: float)
    rest      latency of every network of the space beyond its layers; at most one row, default 0
    network   latency of a whole architecture, which the sum is compared with
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spos_quant.errors import ConfigError, SpaceError
from spos_quant.space.shapes import Geometry, LayerShape
from spos_quant.space.spec import Bits

if TYPE_CHECKING:
    from spos_quant.space.search_space import LayerSlot, SearchSpace

_PER_MICROSECOND = 1000
_SHAPES = ("input", "weight", "stride", "padding", "dilation")
COLUMNS = (
    *("what", "kind", *_SHAPES, "groups", "weight_bits", "act_bits", "architecture", "microseconds"),
)  # fmt: skip
_MOST = 10**9
"""Largest number of microseconds in a row."""


@dataclass(frozen=True)
class LayerCall:
    """A layer call at given bits: the key of a table row."""

    geometry: Geometry
    weight_bits: Bits
    act_bits: Bits

    def __str__(self) -> str:
        g = self.geometry
        at = f"w{self.weight_bits or 32}a{self.act_bits or 32}"
        return f"{g.kind} {_joined(g.input)} with weight {_joined(g.weight)} at {at}"


@dataclass(frozen=True)
class LatencyTable:
    """Latencies in nanoseconds.

    Attributes:
        layers: Latency by layer call.
        rest: Latency of every network beyond its layers.
        networks: Measured latency of whole networks, by encoded architecture (`SearchSpace.encode`).
        source: Description of what was measured.
    """

    layers: Mapping[LayerCall, int] = field(default_factory=dict)
    rest: int = 0
    networks: Mapping[str, int] = field(default_factory=dict)
    source: str = "a table of unknown origin"

    def cost(self, shape: LayerShape, weight_bits: Bits, act_bits: Bits, counted: bool) -> int:
        """The cost metric: latency of a layer in nanoseconds.

        Raises:
            ConfigError: the table has no row for the layer.
        """
        call = _call(shape, weight_bits if counted else None, act_bits if counted else None)
        if call not in self.layers:
            raise ConfigError(
                f"the latency table has no row for {call}: measure what is missing with "
                "`spos-quant latency RUN`, or provide a table that has it with --table"
            )
        return self.layers[call] * shape.runs

    def missing(self, space: SearchSpace) -> list[LayerCall]:
        """The layer calls of a space that are not in the table."""
        return [call for call in calls(space) if call not in self.layers]

    def check(self, space: SearchSpace, where: str) -> None:
        """Raises `ConfigError` if a layer call of the space is not in the table; `where` names the table."""
        missing = self.missing(space)
        if missing:
            raise ConfigError(
                f"{where} lacks {len(missing):,} of the {len(calls(space)):,} layers and bits of {space.name!r}, the "
                f"first is {missing[0]}; --template FILE writes a table with all of them to fill in"
            )


def calls(space: SearchSpace) -> list[LayerCall]:
    """The distinct layer calls of all architectures of a space.

    Raises:
        SpaceError: a layer is called several times with inputs of different shapes.
    """
    found: dict[LayerCall, None] = {}
    for layer in space.layers:
        for shape in layer.shapes:
            if shape.geometry is None:
                raise SpaceError(
                    f"layer {layer.name!r} runs several times on inputs of different shapes; a table of latencies "
                    "cannot hold its latency"
                )
            for weight_bits, act_bits in _bits(layer):
                found[_call(shape, weight_bits, act_bits)] = None
    return list(found)


def _bits(layer: LayerSlot) -> Iterator[tuple[Bits, Bits]]:
    if not layer.quantized:
        yield None, None
    elif layer.weight.axis is not None and layer.weight.axis == layer.act.axis:
        yield from zip(layer.weight.values, layer.act.values, strict=True)
    else:
        yield from ((w, a) for w in layer.weight.values for a in layer.act.values)


def _call(shape: LayerShape, weight_bits: Bits, act_bits: Bits) -> LayerCall:
    assert shape.geometry is not None
    return LayerCall(shape.geometry, weight_bits, act_bits)


def latency_csv(table: LatencyTable, blank: Sequence[LayerCall] = ()) -> str:
    """The table as CSV text, with `blank` rows to fill in."""
    text = io.StringIO()
    text.write(f"# {table.source}\n")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for call, value in table.layers.items():
        writer.writerow({**_layer_row(call), "microseconds": _microseconds(value)})
    for call in blank:
        writer.writerow(_layer_row(call))
    if table.rest:
        writer.writerow({"what": "rest", "microseconds": _microseconds(table.rest)})
    for architecture, value in table.networks.items():
        writer.writerow({"what": "network", "architecture": architecture, "microseconds": _microseconds(value)})
    return text.getvalue()


def _layer_row(call: LayerCall) -> dict[str, Any]:
    g = call.geometry
    bits = {"weight_bits": call.weight_bits or "", "act_bits": call.act_bits or ""}
    return {"what": "layer", "kind": g.kind, **{n: _joined(getattr(g, n)) for n in _SHAPES}, "groups": g.groups, **bits}


def _joined(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _microseconds(value: int) -> str:
    return f"{value / _PER_MICROSECOND:.3f}"


def read_latency_csv(path: Path) -> LatencyTable:
    """The table in a file. Raises `ConfigError` if it cannot be read or parsed."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"latency table {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"latency table {path}: expected CSV text in UTF-8") from None
    return parse_latency_csv(text, str(path))


def parse_latency_csv(text: str, where: str) -> LatencyTable:
    """Parses CSV text.

    Args:
        text: As `latency_csv` writes it, with columns in any order; only layer rows need shapes.
        where: Names the file in messages.

    Raises:
        ConfigError: the message names the line, what was expected and what was found.
    """
    lines = text.splitlines()
    comments = [line.lstrip("# ").strip() for line in lines if line.startswith("#")]
    kept = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    rows = csv.DictReader(line for _, line in kept)
    absent = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if absent:
        raise ConfigError(f"{where}: column {absent[0]!r} is missing; expected {', '.join(COLUMNS)}")
    layers: dict[LayerCall, int] = {}
    networks: dict[str, int] = {}
    rest: list[int] = []
    for (line, _), row in zip(kept[1:], rows, strict=False):
        cell = _Cells(row, f"{where}, line {line}")
        value = cell.nanoseconds()
        if row["what"] == "layer":
            layers[cell.call()] = value
        elif row["what"] == "rest":
            rest.append(value)
        elif row["what"] == "network":
            networks[row["architecture"] or ""] = value
        else:
            raise ConfigError(f"{where}, line {line}: what is {row['what']!r}; expected layer, rest or network")
    if len(rest) > 1:
        raise ConfigError(f"{where}: {len(rest)} rows of rest; expected one at most")
    found = LatencyTable(layers, rest[0] if rest else 0, networks)
    return replace(found, source=comments[0]) if comments else found


class _Cells:
    """The cells of one row."""

    def __init__(self, row: Mapping[str, str | None], where: str) -> None:
        self.row, self.where = row, where

    def nanoseconds(self) -> int:
        text = (self.row["microseconds"] or "").strip()
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?", text, re.ASCII) or float(text) > _MOST:
            raise ConfigError(f"{self.where}: microseconds is {text!r}; expected a number of 0 to {_MOST:,}")
        return round(float(text) * _PER_MICROSECOND)

    def call(self) -> LayerCall:
        sizes = {name: self.sizes(name) for name in _SHAPES}
        groups = self.whole("groups", 1)
        assert groups is not None
        geometry = Geometry(kind=(self.row["kind"] or "").strip(), groups=groups, **sizes)
        return LayerCall(geometry, self.whole("weight_bits", None), self.whole("act_bits", None))

    def sizes(self, name: str) -> tuple[int, ...]:
        text = (self.row[name] or "").strip()
        if not re.fullmatch(r"([0-9]{1,9}(x[0-9]{1,9})*)?", text, re.ASCII):
            raise ConfigError(f"{self.where}: {name} is {text!r}; expected sizes such as 16x32x32")
        return tuple(map(int, text.split("x"))) if text else ()

    def whole(self, name: str, default: int | None) -> int | None:
        text = (self.row[name] or "").strip()
        if not text:
            return default
        if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII):
            raise ConfigError(f"{self.where}: {name} is {text!r}; expected a whole number, or nothing")
        return int(text)
