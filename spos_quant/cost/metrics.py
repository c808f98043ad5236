"""Cost metrics: what a network costs, how that is counted, bounded and printed. BitOps by formula `bitops/1`.

A metric is one object. Registering it is enough for a budget option, the dry run, the report, `bench`, `verify` and the
JSON output. One multiply-add is one MAC; bias, BatchNorm, pooling and additions are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from spos_quant.cost.units import duration, human
from spos_quant.errors import BudgetError
from spos_quant.registry import Registry

if TYPE_CHECKING:  # the command line reads the budget options of every metric before it loads anything else
    from spos_quant.space.shapes import LayerShape
    from spos_quant.space.spec import Bits

FORMULA = "bitops/1"
FLOAT_BITS = 32
LATENCY = "latency"
"""The metric whose values come from the run's table."""

Formula: TypeAlias = "Callable[[LayerShape, Bits, Bits, bool], int]"
"""`(shape, weight_bits, act_bits, counted) -> int`; `counted` is False for layers that the space keeps float."""

COUNT_SUFFIXES: Mapping[str, int] = {
    "": 1,
    **{s: 1000**i for i, s in enumerate("KMGT", 1)},
    **{f"{s}i": 1024**i for i, s in enumerate("KMGT", 1)},
}
TIME_SUFFIXES: Mapping[str, int] = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}


@dataclass(frozen=True, kw_only=True)
class CostMetric:
    """A cost of a network for one image: a sum over its layers.

    Attributes:
        unit: Follows a value: `2.3M BitOps`. Empty if `text` says it.
        label: What messages and tables call it.
        heading: Of a narrow column; the label if empty.
        formula: The cost of one layer; None if the values come from the run's table.
        mac_outside: The cost of one MAC outside convolutions and linear layers; these are always float.
        budget: Whether `--NAME-budget` exists.
        aliases: More names of that option.
        suffixes: Of the numbers in a budget, with their factors.
        expected: The suffixes in an error message.
        examples: Of budgets, in help and error messages.
        uniform: Whether `w3a4` is a budget: bit-widths must decide the cost.
        full_precision: Whether the metric applies to full-precision spaces.
        exact_in_files: Whether the layers of an exported file have the cost that the budget bounds.
        column: Whether tables of models have a column for it.
        hint: Explains that column in the report.
        text: A value for people.
    """

    unit: str
    label: str
    heading: str = ""
    formula: Formula | None
    mac_outside: int = 0
    budget: bool = True
    aliases: tuple[str, ...] = ()
    suffixes: Mapping[str, int] = field(default_factory=lambda: COUNT_SUFFIXES)
    expected: str = "K M G T (powers of 1000), Ki Mi Gi Ti (powers of 1024), % or none"
    examples: str = "2.5M, 6.3Gi"
    uniform: bool = False
    full_precision: bool = True
    exact_in_files: bool = True
    column: bool = True
    hint: str = ""
    text: Callable[[float], str] = human

    def __call__(self, shape: LayerShape, weight_bits: Bits, act_bits: Bits, counted: bool) -> int:
        """The cost of one layer. Raises `BudgetError` if only a table knows it."""
        if self.formula is None:
            raise BudgetError(f"{self.label} has no formula: its values come from the run's table")
        return self.formula(shape, weight_bits, act_bits, counted)

    def amount(self, value: float) -> str:
        """A value with its unit, for people."""
        return f"{self.text(value)} {self.unit}".rstrip()

    def exact(self, value: int) -> str:
        """All digits of a count; a rounded time."""
        return f"{value:,}" if self.text is human else self.text(value)


metrics: Registry[CostMetric] = Registry("cost metric", builtin_modules=("spos_quant.cost.metrics",))
"""Cost metrics by name; a package adds its own with `metrics.register("name")(CostMetric(...))`."""


def budget_metrics() -> dict[str, CostMetric]:
    """The metrics with a budget option, in order of registration."""
    return {name: metric for name, metric in metrics.items() if metric.budget}


def formula_metrics() -> dict[str, CostMetric]:
    """The metrics that a network's layers decide without a table, in order of registration."""
    return {name: metric for name, metric in metrics.items() if metric.formula is not None}


def column_metrics(*, full_precision: bool = False) -> dict[str, CostMetric]:
    """The metrics that tables of models show, in order of registration."""
    shown = ((name, metric) for name, metric in formula_metrics().items() if metric.column)
    return {name: metric for name, metric in shown if metric.full_precision or not full_precision}


def bitops(shape: LayerShape, weight_bits: Bits, act_bits: Bits, counted: bool) -> int:
    """MACs x weight bits x activation bits of searchable and locked layers; a float operand counts 32 bits."""
    return shape.macs * (weight_bits or FLOAT_BITS) * (act_bits or FLOAT_BITS) if counted else 0


def bitops_total(shape: LayerShape, weight_bits: Bits, act_bits: Bits, counted: bool) -> int:
    """BitOps with the layers kept float counted as 32 x 32."""
    return bitops(shape, weight_bits, act_bits, True) if counted else shape.macs * FLOAT_BITS * FLOAT_BITS


def macs(shape: LayerShape, _weight_bits: Bits, _act_bits: Bits, _counted: bool) -> int:
    """Multiply-adds of all layers."""
    return shape.macs


def float_macs(shape: LayerShape, _weight_bits: Bits, _act_bits: Bits, counted: bool) -> int:
    """Multiply-adds in layers kept float."""
    return 0 if counted else shape.macs


def params(shape: LayerShape, _weight_bits: Bits, _act_bits: Bits, _counted: bool) -> int:
    """Weights and biases of convolutions and linear layers; BatchNorm folds away and is not counted."""
    return shape.weights + shape.biases


def weight_bytes(shape: LayerShape, weight_bits: Bits, _act_bits: Bits, _counted: bool) -> int:
    """Bytes of the packed weights, rounded up per layer; float weights take 4 bytes, biases are left out."""
    return -(-shape.weights * (weight_bits or FLOAT_BITS) // 8)


metrics.register("bitops")(
    CostMetric(
        unit="BitOps",
        label="BitOps",
        formula=bitops,
        aliases=("--target-bops",),
        uniform=True,
        full_precision=False,
        hint="MACs times weight bits times activation bits",
    )
)
metrics.register("bitops_total")(
    CostMetric(
        unit="BitOps in all layers",
        label="BitOps total",
        formula=bitops_total,
        mac_outside=FLOAT_BITS * FLOAT_BITS,
        budget=False,
        uniform=True,
        column=False,
    )
)
metrics.register("macs")(
    CostMetric(unit="MACs", label="MACs", formula=macs, mac_outside=1, hint="One multiply-add is one MAC")
)
metrics.register("float_macs")(
    CostMetric(
        unit="MACs in float layers", label="float MACs", formula=float_macs, mac_outside=1, budget=False, column=False
    )
)
# An export folds BatchNorm into biases, which this metric does not count.
metrics.register("params")(
    CostMetric(unit="parameters", label="parameters", formula=params, exact_in_files=False, column=False)
)
metrics.register("weight_bytes")(
    CostMetric(
        unit="bytes of weights",
        label="weight bytes",
        heading="weights",
        formula=weight_bytes,
        uniform=True,
        hint="Bytes of all weights at the bits of each layer",
    )
)
metrics.register(LATENCY)(
    CostMetric(
        unit="",
        label="latency",
        formula=None,
        suffixes=TIME_SUFFIXES,
        expected="ns, us, ms, s or %",
        examples="2ms, 300us",
        uniform=True,
        column=False,
        text=duration,
    )
)
