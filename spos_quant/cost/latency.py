"""Measured latencies as a cost metric: a table of layers, summed over the layers of an architecture.

The table is a CSV file, made by `spos-quant latency` or by its user on a board. Lines that begin with `#` are remarks,
the first of which says what was measured. Its columns are `COLUMNS`; `what` is one of

    layer     a layer at these bits (empty: float) takes so long
    rest      what every network of the space takes besides; at most one row, 0 without
    network   the architecture as a whole takes so long: what the sum is held against
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from spos_quant.cost.units import LATENCY
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.space.shapes import Geometry, LayerShape
from spos_quant.space.spec import Bits

if TYPE_CHECKING:
    from spos_quant.cost.table import CostTable
    from spos_quant.space.search_space import LayerSlot, SearchSpace

_PER_MICROSECOND = 1000
_SHAPES = ("input", "weight", "stride", "padding", "dilation")
COLUMNS = (
    *("what", "kind", *_SHAPES, "groups", "weight_bits", "act_bits", "architecture", "microseconds"),
)  # fmt: skip
_MOST = 10**9
"""Microseconds of one row."""


@dataclass(frozen=True)
class LayerCall:
    """A layer at certain bits: what a row of the table is about."""

    geometry: Geometry
    weight_bits: Bits
    act_bits: Bits

    def __str__(self) -> str:
        g = self.geometry
        at = f"w{self.weight_bits or 32}a{self.act_bits or 32}"
        return f"{g.kind} {_joined(g.input)} with weight {_joined(g.weight)} at {at}"


@dataclass(frozen=True)
class LatencyTable:
    """How long layers take, in nanoseconds.

    Attributes:
        layers: By layer and bits.
        rest: What every network takes besides its layers.
        networks: Whole networks that were measured, by architecture as the space encodes it.
        source: What was measured, in words.
    """

    layers: Mapping[LayerCall, int] = field(default_factory=dict)
    rest: int = 0
    networks: Mapping[str, int] = field(default_factory=dict)
    source: str = "a table of unknown origin"

    def cost(self, shape: LayerShape, weight_bits: Bits, act_bits: Bits, counted: bool) -> int:
        """The metric: nanoseconds of a layer.

        Raises:
            ConfigError: the table does not have it.
        """
        call = _call(shape, weight_bits if counted else None, act_bits if counted else None)
        if call not in self.layers:
            raise ConfigError(
                f"the latency table has no row for {call}: measure what is missing with "
                "`spos-quant latency RUN`, or bring a table that has it with --table"
            )
        return self.layers[call] * shape.runs

    def missing(self, space: SearchSpace) -> list[LayerCall]:
        """What a space may need and the table does not have."""
        return [call for call in calls(space) if call not in self.layers]

    def check(self, space: SearchSpace, where: str) -> None:
        """Raises `ConfigError` where something misses that the space may need."""
        missing = self.missing(space)
        if missing:
            raise ConfigError(
                f"{where} lacks {len(missing):,} of the {len(calls(space)):,} layers and bits of {space.name!r}, the "
                f"first is {missing[0]}; --template FILE writes a table with all of them to fill in"
            )

    def with_rest(self, table: CostTable) -> LatencyTable:
        """The same table with the rest that suits its networks best: the median of what their layers leave over."""
        left = [whole - layers for whole, layers in self._pairs(table)]
        return replace(self, rest=max(0, round(median(left)))) if left else self

    def error(self, table: CostTable) -> dict[str, Any]:
        """How far sums are from whole networks, each predicted with the rest that the others suggest.

        Returns:
            `networks`, and, of at least two, `mean` and `largest`, shares of the measured latency.
        """
        pairs = self._pairs(table)
        if len(pairs) < 2:
            return {"networks": len(pairs), "mean": None, "largest": None}
        off = []
        for i, (whole, layers) in enumerate(pairs):
            rest = max(0, round(median(w - s for j, (w, s) in enumerate(pairs) if j != i)))
            off.append(abs(layers + rest - whole) / whole)
        return {"networks": len(pairs), "mean": fmean(off), "largest": max(off)}

    def said(self, table: CostTable) -> str:
        """What a person should know who bounds latency by this table."""
        found = self.error(table)
        if found["mean"] is None:
            held = "no whole networks were measured, so how far their sum is off is not known"
        else:
            held = (
                f"of {found['networks']} whole networks it is off by {found['mean']:.1%} on average, "
                f"{found['largest']:.1%} at most"
            )
        return f"latency is a sum over layers ({self.source}); {held}"

    def _pairs(self, table: CostTable) -> list[tuple[int, int]]:
        """Measured whole and sum of layers, per network."""
        space = table.space
        bare = type(table)(space, replace(self, rest=0))
        try:
            architectures = [space.decode(text) for text in self.networks]
        except SpaceError as error:
            raise ConfigError(f"latency table: a network of another space: {error}") from None
        sums = bare.totals(architectures, LATENCY).tolist() if architectures else []
        return list(zip(self.networks.values(), sums, strict=True))


def calls(space: SearchSpace) -> list[LayerCall]:
    """Every layer at every bits that some architecture of a space has, each once.

    Raises:
        SpaceError: a layer that runs several times in different counts.
    """
    found: dict[LayerCall, None] = {}
    for place in space.layers:
        for shape in place.shapes:
            if shape.geometry is None:
                raise SpaceError(
                    f"layer {place.name!r} runs several times on inputs of different shapes; a table of latencies "
                    "cannot say how long that takes"
                )
            for weight_bits, act_bits in _bits(place):
                found[_call(shape, weight_bits, act_bits)] = None
    return list(found)


def _bits(place: LayerSlot) -> Iterator[tuple[Bits, Bits]]:
    if not place.quantized:
        yield None, None
    elif place.weight.axis is not None and place.weight.axis == place.act.axis:
        yield from zip(place.weight.values, place.act.values, strict=True)
    else:
        yield from ((w, a) for w in place.weight.values for a in place.act.values)


def _call(shape: LayerShape, weight_bits: Bits, act_bits: Bits) -> LayerCall:
    assert shape.geometry is not None
    return LayerCall(shape.geometry, weight_bits, act_bits)


def latency_csv(table: LatencyTable, blank: Sequence[LayerCall] = ()) -> str:
    """The table as CSV text; `blank` rows have no latency yet."""
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
    """The table in a file. Raises `ConfigError` where it cannot be read or is none."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"latency table {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"latency table {path}: expected CSV text in UTF-8") from None
    return parse_latency_csv(text, str(path))


def parse_latency_csv(text: str, where: str) -> LatencyTable:
    """The table that CSV text says.

    Args:
        text: As `latency_csv` writes it, in any order of columns; what is not a row of a layer needs no shapes.
        where: The file, for errors.

    Raises:
        ConfigError: names the line, what was expected and what was found.
    """
    lines = text.splitlines()
    remarks = [line.lstrip("# ").strip() for line in lines if line.startswith("#")]
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
    return replace(found, source=remarks[0]) if remarks else found


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
