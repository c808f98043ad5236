"""Is the search worth it? Bits of a CIFAR-10 network: uniform, random, knapsack, searched, and searched with widths.

All rows of a network start from the same float weights and take the same number of steps. Each budget is the BitOps (or
the weight bytes) of a uniform row, or a multiple of them, for which there may be no uniform configuration. All rows run
with the first seed, then with the next. Finished work is kept in `--work`; an interrupted command resumes if repeated.
The result is written after every row.

    python benchmarks/cifar10_bits.py --network mobilenetv2 --weights MODEL --data imagefolder:cifar10 --work work
    python benchmarks/cifar10_bits.py --tiny --work /tmp/tiny --bits random:1,best      # smoke test

The ResNet-20 weights were trained on all training images, so half of the test images are search-val
(`cifar10_halves.py`):

    CIFAR10=cifar10 python benchmarks/cifar10_bits.py --weights resnet20-cifar10.safetensors --data cifar10_halves:load
        --work work
    CIFAR10=cifar10 python benchmarks/cifar10_bits.py --weights resnet20-cifar10.safetensors --data cifar10_halves:load
        --work work --spaces resnet20-weights --metric weight_bytes --uniform w2a4,w3a4 --budgets w2a4,w3a4

Searches over operators and bits train from scratch, because the float weights hold only one operator:

    python benchmarks/cifar10_bits.py --spaces resnet20-ops-bits,resnet20-bits --data imagefolder:cifar10 --work work
        --set retrain.init=fresh --set search.estimate=measured

The float weights of MobileNetV2 are trained with

    spos-quant bench benchmarks/spaces/mobilenetv2-cifar-bits.yaml --bits float --no-export --out float
        --data imagefolder:cifar10 --set retrain.init=fresh --set retrain.lr=0.1 --set retrain.label_smoothing=0

and `--set retrain.iterations=N`, which writes them to `float/results/bits-float/model.safetensors`. They are valid only
with the normalisation of that `--data`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from common import write_result

import spos_quant as sq
from spos_quant.backbones.build import load_space
from spos_quant.cost.budget import parse_budget
from spos_quant.cost.table import CostTable
from spos_quant.space.search_space import SearchSpace

SPACES = Path(__file__).parent / "spaces"
BUDGETS = "w2a2,w3a3,w4a4,1.5 x w2a2,1.5 x w3a3"
NETWORKS = {"resnet20": ("resnet20-bits", "resnet20-bits-width"), "mobilenetv2": ("mobilenetv2-cifar-bits",)}
TINY = [
    *("train.iterations=2", "retrain.iterations=2", "search.population=2", "search.generations=1"),
    *("search.recalibration_images=32", "search.max_images=32", "train.batch_size=16", "retrain.batch_size=16"),
]


@dataclass(frozen=True)
class Job:
    """One call of `sq.bench`: the space, the bit configurations and the budgets."""

    space: str
    bits: tuple[str, ...]
    budgets: tuple[str, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--spaces", help="search spaces of the network, comma-separated [all]")
    parser.add_argument("--weights", help="float weights that every row starts from [the supernet's]")
    parser.add_argument("--data", default="cifar10", help="cifar10[:ROOT] or imagefolder:ROOT")
    parser.add_argument("--work", type=Path, required=True, help="folder of the run directories")
    parser.add_argument("--uniform", default="float,w2a2,w3a3,w4a4", help="rows without a budget [%(default)s]")
    parser.add_argument("--bits", default="random:1,knapsack,best", help="rows within each budget [%(default)s]")
    parser.add_argument(
        "--budgets", default=BUDGETS, help="uniform rows whose costs are the budgets, or multiples [%(default)s]"
    )
    parser.add_argument(
        "--metric", default="bitops", help="metric of the budgets: bitops or weight_bytes [%(default)s]"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in spos-quant")
    parser.add_argument("--name", help="name of the result [cifar10_bits-NETWORK]")
    parser.add_argument(
        "--tiny", action="store_true", help="smoke test: fake data and a few steps; nothing is written as a result"
    )
    given = parser.parse_args()
    if given.tiny:
        given.data, given.set = "fake", [*TINY, *given.set]
    names = NETWORKS[given.network] if given.spaces is None else given.spaces.split(",")
    spaces = {name: write_space(given, name) for name in names}
    jobs = list(plan(given, spaces))
    rows: dict[Job, list[dict[str, Any]]] = {}
    for seeds in range(1, given.seeds + 1):
        for job in jobs:
            rows[job] = bench(given, spaces[job.space], job, seeds)
            report(given, rows)


def write_space(given: argparse.Namespace, name: str) -> Path:
    """Writes the space with the given float weights into the working folder; returns the path."""
    space = yaml.safe_load((SPACES / f"{name}.yaml").read_text("utf-8"))
    if given.weights:
        space["weights"] = str(Path(given.weights).resolve())
    elif space["retrain"].get("init") == "fresh":
        space["retrain"]["init"] = "inherit"
    path: Path = given.work / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(space, sort_keys=False), "utf-8")
    return path


def plan(given: argparse.Namespace, spaces: dict[str, Path]) -> Iterator[Job]:
    """The jobs: uniform rows first, then the rows of each budget; spaces after the first get only `best`.

    Without workers each row is one job, so that it is reported as soon as it is finished. With workers each space is
    one job.
    """
    first, *others = spaces
    within = tuple(given.bits.split(","))
    budgets = tuple(budgets_of(given, load_space(spaces[first])))
    uniform = tuple(given.uniform.split(","))
    if given.workers:
        yield Job(first, (*uniform, *within), budgets)
        yield from (Job(name, ("best",), budgets) for name in others if "best" in within)
        return
    yield from (Job(first, (text,)) for text in uniform)
    for budget in budgets:
        yield from (Job(first, (item,), (budget,)) for item in within)
        yield from (Job(name, ("best",), (budget,)) for name in others if "best" in within)


def budgets_of(given: argparse.Namespace, space: SearchSpace) -> Iterator[str]:
    """The budgets: the costs of uniform rows, or multiples of them."""
    table = CostTable(space)
    for text in given.budgets.split(",")[: 1 if given.tiny else None]:
        factor, _, uniform = text.rpartition(" x ")
        yield str(int(float(factor or 1) * parse_budget(uniform, given.metric, table).limit))


def bench(given: argparse.Namespace, space: Path, job: Job, seeds: int) -> list[dict[str, Any]]:
    """The rows of one job; finished trainings are skipped."""
    budgets = {f"{given.metric}_budget": list(job.budgets)} if job.budgets else {}
    made = sq.bench(space, list(job.bits), seeds=seeds, **budgets, **options(given, job.space))
    return list(made["rows"])


def options(given: argparse.Namespace, space: str) -> dict[str, Any]:
    return {
        "out": given.work / space,
        "data": given.data,
        "set": given.set,
        "device": given.device,
        "workers": given.workers,
        "export": False,  # only accuracy is compared
        "show": not given.workers,
    }


def report(given: argparse.Namespace, found: dict[Job, list[dict[str, Any]]]) -> None:
    """Prints the last rows and writes all of them."""
    rows = [{"space": job.space, **row} for job, some in found.items() for row in some]
    for row in rows[-len(list(found.values())[-1]) :]:
        spread = "" if row["top1_std"] is None else f" +- {100 * row['top1_std']:.2f}"
        cost = "-" if row[given.metric] is None else f"{row[given.metric]:,}"
        budget = f"{row['budget'][given.metric]:,}" if row["budget"] else "-"
        accuracy = f"{100 * row['top1_mean']:.2f}{spread} %"
        print(f"{row['space']:22} {budget:>13} {row['bits']:10} {cost:>15} {accuracy}", flush=True)
    if given.tiny:
        return
    settings = {
        name: getattr(given, name)
        for name in ("spaces", "metric", "uniform", "bits", "budgets", "seeds", "workers", "set")
    }
    weights = None if given.weights is None else Path(given.weights).name
    command = {"data": given.data.partition(":")[0], "weights": weights, **settings}
    images = "all training images of the data; search-val is held out of them, the test split chooses nothing"
    name = given.name or f"cifar10_bits-{given.network}"
    write_result(name, {"network": given.network, "command": command, "images": images, "rows": rows})


if __name__ == "__main__":
    main()
