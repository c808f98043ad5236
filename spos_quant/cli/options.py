"""Options that several commands share, as annotated types."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spos_quant.cost.metrics import CostMetric, budget_metrics
from spos_quant.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from spos_quant.cost.table import CostTable
    from spos_quant.stages.search_request import Request

SpaceArg = Annotated[str, typer.Argument(metavar="SPACE", help="A built-in search space or a YAML file.")]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")]
TargetArg = Annotated[str, typer.Argument(metavar="SPACE|RUN", help="A search space, or a run directory.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Run directory [runs/<space>].")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="D", help="digits, cifar10[:ROOT], imagefolder:ROOT, fake, package.module:function."
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of the run [0].")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of train, retrain, search, rank or ray, or log: --set train.epochs=5.",
    ),
]
ResultKey = Annotated[str | None, typer.Option("--result", metavar="KEY", help="Which result, if there are several.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Prints the traceback of errors.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Prints cost range, feasible share and estimated time; starts nothing.")
]
Budgets = dict[str, list[str] | None]
"""Texts by metric; `with_budgets` makes the options."""
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop",
        metavar="X",
        help="Instead of a budget: the cheapest architecture at most X less accurate than the most expensive one.",
    ),
]
SearcherName = Annotated[str, typer.Option("--searcher", help="evolution, random or knapsack.")]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", metavar="N", min=0, max=1024, help="Worker processes for evaluations; 0 evaluates in this process."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Evaluates on a Ray cluster: local, auto or HOST:PORT; --workers N actors [as many as fit].",
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option("--timeout", metavar="TIME", help="Time limit of the search, which keeps its results: 90s, 30m, 2h."),
]
Seeds = Annotated[
    int,
    typer.Option(
        "--seeds", metavar="N", min=1, help="Trainings per model: the run's seed and the N - 1 seeds after it."
    ),
]


def parse_requests(
    table: CostTable,
    given: dict[str, list[str] | None],
    *,
    searcher: str,
    max_drop: float | None,
    timeout: str | None,
) -> list[Request]:
    """The searches that the budget options request: one per value of the repeated metric.

    Raises:
        BudgetError: If there is no budget, a budget cannot be parsed, or two metrics are repeated.
        ConfigError: If a budget and --max-accuracy-drop are both given.
    """
    from spos_quant.stages.search import combined_budgets, parse_timeout
    from spos_quant.stages.search_request import Request

    seconds = None if timeout is None else parse_timeout(timeout)
    budgets = combined_budgets(table, given)
    if max_drop is not None:
        if budgets:
            raise ConfigError("give either a budget or --max-accuracy-drop, not both")
        if not 0 <= max_drop < 1:
            raise ConfigError(f"--max-accuracy-drop {max_drop}: expected a share of 0 to 1, such as 0.01")
        return [Request((), searcher, max_drop, seconds)]
    if not budgets:
        name = table.budget_metrics[0].replace("_", "-")
        raise BudgetError(f"give a budget, such as --{name}-budget 35%, or --max-accuracy-drop 0.01")
    return [Request(each, searcher, None, seconds) for each in budgets]


def with_budgets(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `budgets` becomes an option per cost metric: `--weight-bytes-budget B`.

    The command gets a mapping of metric to the texts that were given, or None.
    """
    signature = inspect.signature(command, eval_str=True)
    options = {f"{name}_budget": (name, metric) for name, metric in budget_metrics().items()}
    parameters: list[inspect.Parameter] = []
    for one in signature.parameters.values():
        parameter = one.replace(kind=inspect.Parameter.KEYWORD_ONLY)  # typer passes all of them by name
        if parameter.name != "budgets":
            parameters.append(parameter)
            continue
        for option, (name, metric) in options.items():
            parameters.append(parameter.replace(name=option, default=None, annotation=_budget_option(name, metric)))

    @wraps(command)
    def called(**given: Any) -> None:
        budgets = {name: given.pop(option) for option, (name, _) in options.items()}
        command(**given, budgets=budgets)

    del called.__wrapped__  # `inspect` would return the signature of `command`
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _budget_option(name: str, metric: CostMetric) -> Any:
    uniform = ", w3a4" if metric.uniform else ""
    text = f"{metric.label[:1].upper()}{metric.label[1:]}: {metric.examples}{uniform} or 35%; may be repeated."
    names = (f"--{name.replace('_', '-')}-budget", *metric.aliases)
    return Annotated[list[str] | None, typer.Option(*names, metavar="B", help=text)]


def check_device(device: str) -> None:
    """Raises `ConfigError` if a device is unknown or not available; imports torch only for `cuda`."""
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {device!r}; expected auto, cpu or cuda")
    if device == "cuda":
        from spos_quant.train.devices import device_of

        device_of(device)


def check_ray(address: str | None) -> None:
    """Raises `ConfigError` if Ray is not installed, or the address is malformed or not reachable."""
    if address is not None:
        from spos_quant.searchers.ray_backend import check_address

        check_address(address)
