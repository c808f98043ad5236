"""Interference of bit-widths in a supernet: does it degrade accuracy and ranking, and what helps?

One supernet per variant is trained from the same float weights. Each scores the same architectures, which are trained
stand-alone once, with several seeds. Then it is searched within the BitOps of w2a2, and the winner is retrained. All
scores are on search-val except the last column. A killed command resumes if repeated.

    CIFAR10=CIFAR python benchmarks/cifar10_interference.py --data cifar10_halves:load --work DIR
        --weights resnet20.safetensors      # they know all training images, so half of the test images choose
    python benchmarks/cifar10_interference.py --tiny --work DIR       # smoke test on fake data

A variant is a list of words joined by `+`:

    baseline      uniformly sampled paths; shared weights, BatchNorm and loss
    longer        three times the steps
    bits-teacher  also distils from the same path at the most bits (`train.path_teacher`)
    float-teacher half of the loss is distillation from the float model (`train.distill`)
    batch-norm    an affine BatchNorm per bit-width (`batch_norm: per-bits`)
    cost-uniform  paths sampled uniformly over BitOps instead of over architectures
    sandwich      the cheapest, the most expensive and a random path at every step
    first         the search starts from knapsack solutions instead of at random (`search.first`)
"""

from __future__ import annotations

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from common import several, write_result

from spos_quant.space.uniform import uniform_architectures
from spos_quant.stages.bench import bench_run, check
from spos_quant.stages.open_run import Options, Plan, plan_run
from spos_quant.stages.rank import parse_cost_range, rank_run
from spos_quant.stages.search import combined_budgets
from spos_quant.stages.train import train_supernet

WORDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "longer": {"train.times": 3},
    "bits-teacher": {"train.path_teacher": "bits"},
    "float-teacher": {"train.distill": 0.5},
    "batch-norm": {"batch_norm": "per-bits"},
    "cost-uniform": {"train.path_sampler": "cost-uniform"},
    "sandwich": {"train.path_sampler": "sandwich"},
    "first": {"search.first": "knapsack"},
}
BASELINE = "baseline"
BAND, BUDGET = "w2a2:w3a3", "w2a2"
SPACE = Path(__file__).parent / "spaces" / "resnet20-bits.yaml"


def main() -> None:
    given = arguments()
    variants = given.variants.split(",")
    for variant in several(given.workers, partial(train, given), variants):
        print(f"trained {variant}", flush=True)
    rows = []
    for variant in variants:
        rows.append({"variant": variant, **ranked(given, variant, variants[0]), **searched(given, variant)})
        show(rows[-1])
        if not given.tiny:
            settings = {key: getattr(given, key) for key in ("n", "seeds", "steps", "alone", "retrain", "evaluations")}
            data = {"data": given.data.partition(":")[0], "weights": Path(given.weights).name, "variants": variants}
            write_result(given.name, {"band": BAND, "budget": BUDGET, "command": {**data, **settings}, "rows": rows})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="cifar10:ROOT or imagefolder:ROOT")
    parser.add_argument("--weights", help="float weights of ResNet-20")
    parser.add_argument("--work", type=Path, required=True, help="folder of the run directories")
    parser.add_argument("--variants", default=",".join(word for word in WORDS))
    parser.add_argument("--n", type=int, default=30, help="ranked architectures [%(default)s]")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of stand-alone training [%(default)s]")
    parser.add_argument("--steps", type=int, default=2_000, help="steps of a supernet [%(default)s]")
    parser.add_argument("--alone", type=int, default=470, help="steps of stand-alone training [%(default)s]")
    parser.add_argument("--retrain", type=int, default=940, help="steps of the searched model [%(default)s]")
    parser.add_argument("--evaluations", type=int, default=400, help="evaluations of a search [%(default)s]")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", default="cifar10_interference", help="name of the results file")
    parser.add_argument("--tiny", action="store_true", help="smoke test: fake data, a few steps")
    given = parser.parse_args()
    if given.tiny:
        small = {"n": 4, "seeds": 1, "steps": 2, "alone": 2, "retrain": 2, "evaluations": 4}
        vars(given).update(small, data="fake", weights=None)
    elif not (given.data and given.weights):
        parser.error("give --data and --weights, or --tiny")
    for word in given.variants.replace("+", ",").split(","):
        if word not in WORDS:
            parser.error(f"unknown variant {word!r}; expected words of {', '.join(WORDS)} joined by +")
    if given.tiny and "float-teacher" in given.variants:
        parser.error("float-teacher needs the float weights: leave it out of --tiny")
    return given


def plan_of(given: argparse.Namespace, variant: str) -> Plan:
    """Plans the run of a variant and writes its space."""
    space = yaml.safe_load(SPACE.read_text("utf-8"))
    space["weights"] = None if given.weights is None else str(Path(given.weights).resolve())
    space["train"] = {**space["train"], "iterations": given.steps}
    space["retrain"] = {**space["retrain"], "iterations": given.retrain}
    space["rank"] = {"iterations": given.alone}
    population = max(2, given.evaluations // 10)
    half = population // 2
    space["search"] = {"population": population, "generations": 10, "parents": max(1, population // 5)}
    space["search"] |= {"crossover": half, "mutation": half, "max_images": 2_000, "estimate": "gradient"}
    if given.tiny:
        space["search"] |= {"generations": 2, "recalibration_images": 32, "gradient_images": 32, "max_images": 32}
        for recipe in ("train", "retrain"):
            space[recipe]["batch_size"] = 16
    for word in variant.split("+"):
        for setting, value in WORDS[word].items():
            section, _, key = setting.rpartition(".")
            if setting == "train.times":
                space["train"]["iterations"] *= value
            else:
                (space[section] if section else space)[key] = value
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / f"{variant}.yaml"
    path.write_text(yaml.safe_dump(space, sort_keys=False), "utf-8")
    return plan_run(str(path), Options(out=given.work / variant, data=given.data))


def train(given: argparse.Namespace, variant: str) -> str:
    """Trains the supernet of a variant unless that is done."""
    with plan_of(given, variant).open() as run:
        train_supernet(run, device=given.device, show=not given.workers)
    return variant


def ranked(given: argparse.Namespace, variant: str, first: str) -> dict[str, Any]:
    """Rank correlation with stand-alone training, which is done once, in the first variant's run."""
    with plan_of(given, variant).open() as run:
        if variant != first and not (run.path / "ranking").exists():
            shutil.copytree(given.work / first / "ranking", run.path / "ranking")
        band = parse_cost_range(run, BAND)
        options: dict[str, Any] = {"device": given.device, "workers": given.workers, "show": not given.workers}
        made = rank_run(run, n=given.n, seeds=given.seeds, band=band, **options)
    supernet = {row["architecture"]: row["supernet_top1"] for row in made["rows"]}
    return {
        "trained_alone_anew": given.n * given.seeds - len(made["skipped"]),
        "by_loss": made["judges"]["loss"],
        "by_top1": made["judges"]["top1"],
        "by_cost": made["by_cost"],
        "ceiling": made["ceiling"],
        "supernet_top1_mean": sum(supernet.values()) / len(supernet),
        "alone_top1_mean": sum(row["alone_top1"] for row in made["rows"]) / len(made["rows"]),
    }


def searched(given: argparse.Namespace, variant: str) -> dict[str, Any]:
    """The retrained winner of the search, and the uniform rows in the supernet."""
    with plan_of(given, variant).open() as run:
        limits = combined_budgets(run.table, {"bitops": [BUDGET]})
        words = check(run, ["best"], limits, 1)
        options: dict[str, Any] = {"device": given.device, "workers": given.workers, "show": not given.workers}
        (row,) = bench_run(run, words, limits, seeds=1, export=False, **options)["rows"]
        uniform = in_supernet(run)
    kept = ("bitops", "supernet_top1", "search_val_top1_mean", "top1_mean")
    return {"best": {key: row[key] for key in kept}, "uniform": uniform}


def in_supernet(run: Any) -> dict[str, float]:
    """Supernet accuracies of uniform bits, which every search evaluates."""
    from spos_quant.stages.evaluator import open_log

    found = {}
    with open_log(run) as log:
        for name, architecture in uniform_architectures(run.space).items():
            entry = log.get(architecture)
            if entry is not None and name in ("w2a2", "w3a3", "w4a4", "w8a8"):
                found[name] = entry.score
    return found


def show(row: dict[str, Any]) -> None:
    figures = {name: row["by_loss"][name] for name in ("kendall", "spearman", "within_strata")}
    uniform = ", ".join(f"{name} {value:.3f}" for name, value in row["uniform"].items())
    best = row["best"]
    print(f"{row['variant']:24} {figures} in the supernet: {uniform}", flush=True)
    print(f"{'':24} best: {best['supernet_top1']:.4f} there, retrained {best['top1_mean']:.4f} on test", flush=True)


if __name__ == "__main__":
    main()
