"""Options that mean the same everywhere, as types for the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spos_quant.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from spos_quant.cost.table import CostTable
    from spos_quant.stages.search import Request

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
ResultKey = Annotated[
    str | None, typer.Option("--result", metavar="KEY", help="Which result, where there are several.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Adds the traceback to errors.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Budget range, cost and an estimate of the time; starts nothing.")
]
_COUNT_HELP = "2.5M, 6.3Gi or 35%; may be repeated."
_BUDGET_HELP = "2.5M, 6.3Gi, w3a4 or 35%; may be repeated."
Bitops = Annotated[
    list[str] | None, typer.Option("--bitops-budget", "--target-bops", metavar="B", help=f"BitOps: {_BUDGET_HELP}")
]
Macs = Annotated[list[str] | None, typer.Option("--macs-budget", metavar="B", help=f"Multiply-adds: {_COUNT_HELP}")]
Params = Annotated[list[str] | None, typer.Option("--params-budget", metavar="B", help=f"Parameters: {_COUNT_HELP}")]
WeightBytes = Annotated[
    list[str] | None, typer.Option("--weight-bytes-budget", metavar="B", help=f"Bytes of weights: {_BUDGET_HELP}")
]
Latency = Annotated[
    list[str] | None,
    typer.Option(
        "--latency-budget", metavar="T", help="By the run's table (spos-quant latency): 2ms or 35%; may be repeated."
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop",
        metavar="X",
        help="Instead of a budget: the cheapest architecture at most this much below the most expensive one's accuracy.",
    ),
]
SearcherName = Annotated[str, typer.Option("--searcher", help="evolution, random or knapsack.")]
Workers = Annotated[
    int, typer.Option("--workers", metavar="N", min=0, max=1024, help="Evaluator processes; 0 evaluates in this one.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Evaluates on a Ray cluster: local, auto or HOST:PORT; --workers N actors [as many as it has room for].",
    ),
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="Ends the search with what it has: 90s, 30m, 2h.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", metavar="N", min=1, help="Trainings of each, with the run's seed and those after it.")
]


def parse_requests(
    table: CostTable,
    given: dict[str, list[str] | None],
    *,
    searcher: str,
    max_drop: float | None,
    timeout: str | None,
) -> list[Request]:
    """The searches that the budget options ask for: one per value of the metric that is repeated.

    Raises:
        BudgetError: no budget, an unreadable one, or two metrics repeated.
        ConfigError: a budget together with --max-accuracy-drop.
    """
    from spos_quant.stages.search import Request, combined_budgets, parse_timeout

    seconds = None if timeout is None else parse_timeout(timeout)
    budgets = combined_budgets(table, given)
    if max_drop is not None:
        if budgets:
            raise ConfigError("give either a budget or --max-accuracy-drop, not both")
        if not 0 <= max_drop < 1:
            raise ConfigError(f"--max-accuracy-drop {max_drop}: expected a share of 0 to 1, such as 0.01")
        return [Request((), searcher, max_drop, seconds)]
    if not budgets:
        names = "--macs-budget" if table.space.spec.full_precision else "--bitops-budget"
        raise BudgetError(f"give a budget, such as {names} 35%, or --max-accuracy-drop 0.01")
    return [Request(each, searcher, None, seconds) for each in budgets]


def budget_options(
    bitops: list[str] | None,
    macs: list[str] | None,
    params: list[str] | None,
    weight_bytes: list[str] | None,
    latency: list[str] | None,
) -> dict[str, Any]:
    """Budget texts by metric."""
    return {"bitops": bitops, "macs": macs, "params": params, "weight_bytes": weight_bytes, "latency": latency}


def check_device(device: str) -> None:
    """Raises `ConfigError` where a device is unknown or not there; loads torch only where CUDA is asked for."""
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {device!r}; expected auto, cpu or cuda")
    if device == "cuda":
        from spos_quant.train.devices import device_of

        device_of(device)


def check_ray(address: str | None) -> None:
    """Raises `ConfigError` where a Ray cluster is asked for that cannot be there."""
    if address is not None:
        from spos_quant.searchers.ray_backend import check_address

        check_address(address)
