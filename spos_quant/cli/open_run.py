"""Opens or creates a run from the command line; checks everything before it writes anything."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spos_quant.cli import show
from spos_quant.cli.options import check_device, check_ray, parse_requests
from spos_quant.cost.metrics import metrics

if TYPE_CHECKING:
    from spos_quant.cost.budget import Budget
    from spos_quant.cost.table import CostTable
    from spos_quant.stages.estimate import Trainings
    from spos_quant.stages.run import Run
    from spos_quant.stages.search_request import Request


def say_latency(table: CostTable, budgets: Sequence[Budget]) -> None:
    """Prints how accurate the latency table is, if a budget bounds latency."""
    if table.latency is not None and any(metrics[budget.metric].formula is None for budget in budgets):
        from spos_quant.cost.latency_error import accuracy_note

        show.remark(accuracy_note(table.latency, table.space))


class Opening:
    """A run that is about to be opened or created. Everything is checked before anything is written."""

    def __init__(
        self,
        target: str,
        out: Path | None,
        data: str | None,
        seed: int | None,
        assignments: list[str] | None,
        *,
        existing: bool = False,
    ) -> None:
        from spos_quant.stages.open_run import Options, plan_existing, plan_run

        options = Options(out, data, seed, tuple(assignments or ()))
        self.plan = plan_existing(target, options) if existing else plan_run(target, options)

    def requests(
        self,
        budgets: dict[str, list[str] | None],
        *,
        searcher: str,
        max_drop: float | None,
        timeout: str | None,
        device: str,
        ray: str | None,
    ) -> list[Request]:
        """Returns the searches that the options request, each checked to be feasible."""
        from spos_quant.cost.budget import budget_warnings
        from spos_quant.cost.sampler import FeasibleSampler
        from spos_quant.searchers.base import searchers
        from spos_quant.stages.search import wants_gradients

        searchers[searcher]
        table = self.plan.run.table
        requests = parse_requests(table, budgets, searcher=searcher, max_drop=max_drop, timeout=timeout)
        for request in requests:
            FeasibleSampler(table, request.budgets)
            wants_gradients(self.plan.run, request)
            for text in budget_warnings(list(request.budgets), table):
                show.remark(f"warning: {text}")
            say_latency(table, request.budgets)
        check_device(device)
        check_ray(ray)
        return requests

    def open(self) -> AbstractContextManager[Run]:
        """The run with its settings written, locked by this process until the end of the `with`."""
        return self.plan.open()

    def estimate(
        self, requests: list[Request], as_json: bool, *, workers: int = 0, trainings: Trainings | None = None
    ) -> None:
        """Prints what `--dry-run` prints."""
        from spos_quant.stages.estimate import estimate

        self.show_estimate(estimate(self.plan.run, requests, workers=workers, trainings=trainings), as_json)

    def show_estimate(self, result: dict[str, Any], as_json: bool) -> None:
        """Prints an estimate."""
        if as_json:
            return show.emit(result)
        metric, (low, high) = metrics[result["metric"]], result["range"]
        show.say(f"{result['space']}: {result['size']:,} architectures, {metric.text(low)} to {metric.amount(high)}")
        for budget in result["budgets"]:
            show.say(f"budget {budget['key']}: {budget['share']:.3%} of all architectures are feasible")
        for stage in result["stages"]:
            show.say(f"{stage['stage']}: {stage['units']:,} {stage['unit']}, about {stage['seconds']:.0f} s")
