"""What ranks architectures as stand-alone training does: the supernet, sensitivities, shorter trainings?

The same architectures of a cost band are trained stand-alone for each number of steps, and scored by each method. A
killed command resumes if repeated.

    python benchmarks/rankings.py RUN --name resnet20 --band w2a2:w3a3
    python benchmarks/rankings.py RUN --tiny --n 4 --steps 1:2,2:1      # smoke test; no result is written

RUN is a run directory with a trained supernet, for example one of `cifar10_bits.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from common import write_result

from spos_quant.cost.knapsack import loss_of
from spos_quant.cost.sensitivity import Perturbations, measured
from spos_quant.searchers.rank_correlation import kendall, rank_agreement
from spos_quant.stages.evaluator import open_log
from spos_quant.stages.open_run import Options, plan_existing
from spos_quant.stages.rank import parse_cost_range, rank_run
from spos_quant.stages.run import Run
from spos_quant.stages.sensitivity import sensitivity_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run directory with a trained supernet")
    parser.add_argument("--name", help="name of the result: rankings-NAME [the space's name]")
    parser.add_argument("--n", type=int, default=30, help="number of architectures [%(default)s]")
    parser.add_argument("--band", help="LOW:HIGH of their costs [the whole range]")
    parser.add_argument("--steps", default="50:1,100:2,300:1", help="STEPS:SEEDS of stand-alone training [%(default)s]")
    parser.add_argument(
        "--sensitivities", default="gradient,measured", help="sensitivity estimates that rank [%(default)s]"
    )
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="smoke test; nothing is written as a result")
    given = parser.parse_args()
    lengths = {int(steps): int(seeds) for steps, _, seeds in (text.partition(":") for text in given.steps.split(","))}
    made = {steps: ranked(given, steps, seeds) for steps, seeds in sorted(lengths.items())}
    figures = compare(made, scores_by_method(given, made[max(made)]))
    for method, found in figures["judges"].items():
        print(f"{method:50} tau {found['kendall']}")
    for pair, tau in figures["lengths"].items():
        print(f"{pair:50} tau {tau}")
    if not given.tiny:
        run = plan_existing(given.run).run
        settings = {key: getattr(given, key) for key in ("n", "band", "steps", "sensitivities")}
        recipe = {"supernet_steps": run.spec.train.iterations, "batch_size": run.spec.ranked.batch_size}
        write_result(f"rankings-{given.name or run.spec.name}", {"command": settings, **recipe, **figures})


def ranked(given: argparse.Namespace, steps: int, seeds: int) -> dict[str, Any]:
    """The ranking against stand-alone trainings of `steps` steps; finished trainings are skipped."""
    with plan_existing(given.run, Options(assignments=(f"rank.iterations={steps}",))).open() as run:
        options: dict[str, Any] = {"device": given.device, "workers": given.workers, "show": True}
        return rank_run(run, n=given.n, seeds=seeds, band=parse_cost_range(run, given.band), **options)


def scores_by_method(given: argparse.Namespace, made: dict[str, Any]) -> dict[str, list[float]]:
    """The architectures' scores by each method; higher is better."""
    rows = made["rows"]
    loss, top1 = ([row[key] for row in rows] for key in ("supernet_loss", "supernet_top1"))
    found = {"loss in the supernet": [-x for x in loss], "accuracy in the supernet": top1}
    for estimate in given.sensitivities.split(","):
        if estimate == "measured":
            with plan_existing(given.run).open() as run:
                sums = measured_sums(run, [row["architecture"] for row in rows], given)
        else:
            sums = [row["degradation"] for row in rows]
        found[f"sum of sensitivities ({estimate})"] = [-x for x in sums]
        found[f"loss in the supernet and sensitivities ({estimate})"] = together(loss, sums)
    return found


def measured_sums(run: Run, texts: Sequence[str], given: argparse.Namespace) -> list[float]:
    """The architectures' loss increases by the sum of measured sensitivities."""
    sensitivity_run(run, estimate="measured", device=given.device, show=True, workers=given.workers)
    perturbations = Perturbations(run.table)
    with open_log(run) as log:
        known = {one.architecture: (one.score, one.loss) for one in log}
    losses = measured(perturbations, {a: known[a] for a in perturbations.architectures}).losses(run.space)
    return [loss_of(losses, a, run.space.relevant(a)) for a in map(run.space.decode, texts)]


def together(*losses: Sequence[float]) -> list[float]:
    """The negative sum of several losses, each standardized to zero mean and unit deviation."""
    columns = [np.asarray(values, dtype=np.float64) for values in losses]
    scaled = [(values - values.mean()) / (values.std() or 1.0) for values in columns]
    return [-float(x) for x in np.sum(scaled, axis=0)]


def compare(made: dict[int, dict[str, Any]], scored: dict[str, list[float]]) -> dict[str, Any]:
    """Every method and every shorter training against the longest training; all trainings against each other."""
    longest = max(made)
    truth = [row["alone_top1"] for row in made[longest]["rows"]]
    costs, strata = ([row[key] for row in made[longest]["rows"]] for key in ("cost", "stratum"))
    alone = {
        f"{steps} steps alone, seed {seed}": values
        for steps, one in made.items()
        for seed, values in by_seed(one["rows"]).items()
    }
    methods = scored | {"cost alone": costs} | {n: v for n, v in alone.items() if not n.startswith(f"{longest} ")}
    names = list(alone)
    return {
        "metric": made[longest]["metric"],
        "band": made[longest]["band"],
        "truth_steps": longest,
        "truth_mean": fmean(truth),
        "truth_best": max(truth),
        "judges": {name: rank_agreement(values, truth, costs, strata, seed=0) for name, values in methods.items()},
        "lengths": {
            f"{one} / {other}": kendall(alone[one], alone[other])
            for i, one in enumerate(names)
            for other in names[i + 1 :]
        },
        "rows": [
            {"architecture": row["architecture"], "cost": row["cost"], **{n: v[i] for n, v in (scored | alone).items()}}
            for i, row in enumerate(made[longest]["rows"])
        ],
    }


def by_seed(rows: Sequence[dict[str, Any]]) -> dict[int, list[float]]:
    """Accuracies on search-val per seed."""
    seeds = [one["seed"] for one in rows[0]["alone"]]
    return {seed: [row["alone"][i]["top1"] for row in rows] for i, seed in enumerate(seeds)}


if __name__ == "__main__":
    main()
