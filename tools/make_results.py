#!/usr/bin/env python3
"""Writes docs/results.md from benchmarks/results/*.json: what bits are worth, whatever the figures say.

python tools/make_results.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "results.md"
RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# Results

Is a searched network better than what is free: uniform bits, and the integer program over sensitivities (the knapsack)?
All figures are from the scripts that measured them. Choices were made on search-val, the test images decided nothing.
CIFAR-10 here has 30,000 of the 50,000 training images.
"""
GROUNDS = {
    "cifar10_bits-mobilenetv2-bitops": "MobileNetV2",
    "cifar10_bits-resnet20-bitops": "ResNet-20",
    "cifar10_bits-resnet20-bytes": "ResNet-20, weights alone",
}
"""The results of the first table, and what their networks are called."""
HALVES = (
    "The float weights, which another author trained, know all training images, so nothing is chosen on these: half of the test images "
    "(5,000, drawn class by class) are search-val, the other half is test (`benchmarks/cifar10_halves.py`)."
)
NOTES = {
    "cifar10_bits-mobilenetv2-bitops": "The float weights were trained on our own training split (24,000 images) by the command in the script's head.",
    "cifar10_bits-resnet20-bitops": HALVES,
    "cifar10_bits-resnet20-bytes": f"{HALVES} Inputs have 4 bits, weights are searched.",
}
CONCLUSIONS = """On ResNet-20, whose layers are alike, the searched network, the knapsack's and uniform bits are not told apart at any budget. A random
network within the same budget is 4 to 5 points worse, so it matters which bits a network has. The search left 1.5 to 9 % of these
budgets unspent. For such a network take uniform bits, or the knapsack, which takes seconds. On the digits the searched network is better on
average and costs less than uniform bits, but three seeds and 359 test images do not tell the two apart.

Candidates were scored on the first classes only until 0045 ([what was wrong](reliability.md#withdrawn-results-scores-on-the-first-classes)).
Not measured again yet: MobileNetV2, budgets of bytes, operators, how supernets rank, remedies for bit interference.
"""
UNITS = {"bitops": (1e6, "M BitOps"), "weight_bytes": (1e3, "kB of weights")}

Row = dict[str, Any]


def main() -> None:
    """Writes the page."""
    PATH.write_text(text(), "utf-8")


def text() -> str:
    """The page of the figures at hand."""
    return "\n".join([HEAD, summary(), *(part for part in map(section, SECTIONS) if part)])


def load(name: str) -> Row | None:
    """The figures of a script; None where they were not measured."""
    path = RESULTS / f"{name}.json"
    found: Row | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return found


def summary() -> str:
    """The first table, and what follows from it."""
    rows, differences = [], []
    for name, network in GROUNDS.items():
        result = load(name)
        for budget, group in by_budget(result).items() if result else ():
            metric = result["command"]["metric"]
            factor, unit = UNITS[metric]
            label = f"{budget / factor:,.1f} {unit}"
            kinds = ("best", "knapsack", "uniform", "random")
            seeds = min((len(row["runs"]) for row in group.values()), default=0)
            rows.append([network, label, *(accuracy(group.get(kind)) for kind in kinds), str(seeds)])
            told = [difference(group.get("best"), group.get(kind)) for kind in kinds[1:]]
            differences.append([network, label, *told])
    for budget in ("2.2M", "4M"):
        result = load(f"digits_search_vs_uniform-{budget}")
        if result:
            group = {name: digits_row(result, model) for name, model in (("best", "searched"), ("uniform", "uniform"))}
            seeds = str(len(group["best"]["runs"]))
            label = f"{float(budget[:-1]):,.1f} M BitOps"
            rows.append(["digits-resnet", label, accuracy(group["best"]), "-", accuracy(group["uniform"]), "-", seeds])
            differences.append(["digits-resnet", label, "-", difference(group["best"], group["uniform"]), "-"])
    if not rows:
        return ""
    return f"""## Is the search worth it?

Test accuracy in percent, mean and standard deviation over seeds of the training alone; all rows of a network take the same
steps from the same float weights.

{table(("network", "budget", "searched", "knapsack", "uniform", "random", "seeds"), rows)}
Points by which the searched network is better, paired by seed, with the 95 % interval of Student's t; in bold where it leaves out 0:

{table(("network", "budget", "than the knapsack's", "than uniform bits", "than a random one"), differences)}
{CONCLUSIONS}"""


def digits_row(result: Row, model: str) -> Row:
    """The runs of the searched or the uniform model of the digits, as a row of a bench."""
    runs = [
        {"seed": row["seed"], "test": {"top1": row["test_top1"]}} for row in result["rows"] if row["model"] == model
    ]
    values = [run["test"]["top1"] for run in runs]
    return {"runs": runs, "top1_mean": fmean(values), "top1_std": stdev(values) if len(values) > 1 else None}


def by_budget(result: Row) -> dict[int, dict[str, Row]]:
    """Per budget the rows `best`, `knapsack`, `random`, and the most expensive `uniform` one that keeps it."""
    metric = result["command"]["metric"]
    found: dict[int, dict[str, Row]] = {}
    for row in result["rows"]:
        if row["budget"]:
            found.setdefault(row["budget"][metric], {})[row["bits"].partition(":")[0]] = row
    uniform = [row for row in result["rows"] if not row["budget"] and row["bits"] != "float"]
    for budget, group in found.items():
        kept = [row for row in uniform if row[metric] <= budget]
        if kept:
            group["uniform"] = max(kept, key=lambda row: row[metric])
    return found


def accuracy(row: Row | None) -> str:
    """Mean and deviation of the test accuracy."""
    if row is None:
        return "-"
    return f"{100 * row['top1_mean']:.2f}" + ("" if row["top1_std"] is None else f" +- {100 * row['top1_std']:.2f}")


def difference(one: Row | None, other: Row | None) -> str:
    """Mean of the differences by seed, and its 95 % interval."""
    if one is None or other is None:
        return "-"
    mine, theirs = ({run["seed"]: 100 * run["test"]["top1"] for run in row["runs"]} for row in (one, other))
    apart = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
    mean = fmean(apart)
    if len(apart) < 2:
        return f"{mean:+.2f}"
    reach = float(student.ppf(0.975, len(apart) - 1)) * stdev(apart) / len(apart) ** 0.5
    text = f"{mean:+.2f} ({mean - reach:+.2f} to {mean + reach:+.2f})"
    return f"**{text}**" if abs(mean) > reach else text


def section(name: str) -> str:
    """A section of the page; empty where its figures were not measured."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text("utf-8"))
    where = result["environment"]
    packages = where["packages"]
    device = where.get("gpu") or f"{where['cpus']} CPU cores"
    measured = (
        f"Measured on {device} with torch {packages['torch']}, brevitas {packages['brevitas']}, at commit "
        f"{where['commit']}; `benchmarks/results/{name}.json`.\n"
    )
    return f"{SECTIONS[name](result)}\n{measured}"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(columns), ["---"] * len(list(columns)), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(value: float | None) -> str:
    """A share in percent; a dash where it is unknown."""
    return "-" if value is None else f"{100 * value:.2f} %"


def spread(value: Row, seeds: int = 2) -> str:
    """Mean and, of several seeds, deviation in percent."""
    deviation = f" +- {100 * value['std']:.2f}" if seeds > 1 else ""
    return f"{100 * value['mean']:.2f}{deviation} %"


def knapsack(result: Row) -> str:
    """Bits without training."""
    settings = result["settings"]
    rows = [[r["name"], f"{r['weight_bytes']:,}", percent(r["top1"]), f"{r['loss']:.3f}"] for r in result["rows"]]
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items())
    best = next(row for row in result["rows"] if row["name"] == "knapsack")
    return f"""## Bits without training: sensitivities and knapsack

ResNet-20, weights at 8, 4 or 2 bits and four on average, inputs at 8, all layers, no training: sensitivities from
{settings["images"]} training images (`{settings["estimate"]}`, quantizer `{settings["quantizer"]}`), the exact optimum of their sum,
BatchNorm statistics from {settings["recalibration_images"]:,} training images. Target: 91.1 %; reached: {percent(best["top1"])}.

{table(("weights", "bytes", "test top-1", "loss"), rows)}
From float weights and data to the bit configuration: {result["seconds_in_all"]:.0f} s ({seconds}), at a load average of
{result["load_average"]:.1f} when it ended. Target: 35 s.

`python benchmarks/cifar10_knapsack.py --data imagefolder:CIFAR --weights FILE`
"""


def peer(result: Row) -> str:
    """The same by another tool."""
    rows = [[r["name"], percent(r["top1"]), f"{r['loss']:.3f}"] for r in result["rows"]]
    bits = " ".join(map(str, result["weight_bits"]))
    return f"""## The same by another tool

model-compression-toolkit {result["tool"]["model-compression-toolkit"]}, same float weights, calibration images of the same split, weights within
{result["weight_budget_bytes"]:,.0f} bytes, activations at 8 bits; it chose {bits}.

{table(("", "test top-1", "loss"), rows)}
It took {result["seconds"]:.0f} s at a load average of {result["load_average"]:.1f}; its ONNX file has {result["file_bytes"]:,} bytes, weights stored as float32.

`python benchmarks/peers/mct_resnet20.py --data imagefolder:CIFAR --weights FILE --images {result["settings"]["images"]}`
"""


def quantizers(result: Row) -> str:
    """Quantizers and recipes."""
    rows = [
        [
            s["bits"],
            s["variant"],
            str(s["seeds"]),
            *(spread(s[key], s["seeds"]) for key in ("search_val_top1", "test_top1")),
        ]
        for s in result["summary"]
    ]
    measured = [s for s in result["summary"] if s["bits"] != "float"]
    tried = " ".join(
        f"--{key} {','.join(dict.fromkeys(s[name] for s in measured))}"
        for key, name in (("bits", "bits"), ("variants", "variant"))
    )
    return f"""## Quantizers and recipes of retraining: {result["steps"]} steps{result.get("heading", "")}

ResNet-20 at uniform bits, from the same float weights, {result["steps"]} steps of {result["batch_size"]} images, learning rate {result["lr"]} falling to 0;
`baseline` is `gaussian+pact`, the default until `midrise+pact` took its place, and the quantizer of `distill` and `progressive`;
`stock` is Brevitas's own scale and clip. The float weights were trained on the images of search-val too: its figures choose nothing.{result.get("notes", "")}

{table(("bits", "variant", "seeds", "search-val top-1", "test top-1"), rows)}
`python benchmarks/cifar10_quantizers.py --data imagefolder:CIFAR --weights FILE --work DIR --steps {result["steps"]} {tried} --name {result["benchmark"]}`
"""


def bits(result: Row) -> str:
    """All rows of a network at equal cost."""
    told = result["command"]
    factor, unit = UNITS[told["metric"]]
    rows = [
        [
            f"{r['budget'][told['metric']] / factor:,.1f}" if r["budget"] else "-",
            r["bits"],
            "-" if r[told["metric"]] is None else f"{r[told['metric']] / factor:,.1f}",
            percent(r["search_val_top1_mean"]),
            accuracy(r),
            " ".join(f"{100 * run['test']['top1']:.2f}" for run in r["runs"]),
        ]
        for r in result["rows"]
    ]
    weights = ["--weights FILE"] if told["weights"] else []
    tried = [f"--{key} {told[key]}" for key in ("spaces", "metric", "uniform", "bits", "seeds") if told.get(key)]
    settings = " ".join(
        [*weights, *tried, f'--budgets "{told["budgets"]}"', *(f"--set {text}" for text in told["set"])]
    )
    steps = {key: value for key, _, value in (text.partition("=") for text in told["set"])}
    data = "imagefolder:CIFAR" if told["data"] == "imagefolder" else f"{told['data']}:load"
    return f"""## {GROUNDS[result["benchmark"]]}: searched, knapsack, random and uniform bits at equal cost

All rows take {steps["retrain.iterations"]} steps of {steps["retrain.batch_size"]} images from the same float weights; `best` is what the search found in a
supernet of {steps["train.iterations"]} steps of as many images. {NOTES.get(result["benchmark"], "")}

{table((f"budget, {unit}", "bits", unit, "search-val top-1", "test top-1", "by seed"), rows)}
`python benchmarks/cifar10_bits.py --network {result["network"]} --data {data} --work DIR --name {result["benchmark"]} {settings}`
"""


def number(value: float | None) -> str:
    """Two decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def interference(result: Row) -> str:
    """Remedies against bit interference: how supernets rank, and what is found in them."""
    told, uniform = result["command"], ("w2a2", "w4a4", "w8a8")
    rows = []
    for row in result["rows"]:
        loss, best = row["by_loss"], row["best"]
        rows.append(
            [
                row["variant"],
                *(percent(row["uniform"].get(bits)) for bits in uniform),
                *(number(loss[key]) for key in ("kendall", "within_strata", "kendall_of_one")),
                *(percent(best[key]) for key in ("supernet_top1", "search_val_top1_mean", "top1_mean")),
            ]
        )
    first = result["rows"][0]
    low, high = loss["interval"]
    top = first["ceiling"]
    ceiling = (
        ""
        if top is None
        else f" Two seeds of training alone agree with tau {number(top['kendall'])}, the most to hope for in `of one seed`."
    )
    names = ("supernet", *(f"{bits} in it" for bits in uniform), "tau", "within strata", "of one seed")
    return f"""## Bit interference: remedies, how supernets rank, and what is found in them

Supernets of ResNet-20 from the same float weights, {told["steps"]} steps (`longer`: three times as many; `sandwich` takes three paths a
step). {told["n"]} architectures of the band {result["band"]} were trained alone, {told["alone"]} steps, {told["seeds"]} seeds, and judged by
their loss in each supernet: Kendall's tau, that within strata of BitOps, and that against a single seed.{ceiling} By BitOps
alone, tau is {number(first["by_cost"]["kendall"])}. Of so few architectures a tau is uncertain: the interval of the last row's is {low:.2f} to {high:.2f}.
The last columns are the best of {told["evaluations"]} evaluations within {result["budget"]}: in the supernet, and retrained for {told["retrain"]} steps. Variants that
the command names and the table lacks were not measured.

{table((*names, "best there", "search-val", "test top-1"), rows)}
`python benchmarks/cifar10_interference.py --data imagefolder:CIFAR --weights FILE --work DIR --variants {",".join(told["variants"])} --n {told["n"]} --seeds {told["seeds"]} --steps {told["steps"]} --alone {told["alone"]} --retrain {told["retrain"]} --evaluations {told["evaluations"]}`
"""


def rankings(result: Row) -> str:
    """Who orders architectures as training each alone does."""
    told, steps = result["command"], result["truth_steps"]
    rows = []
    for judge, figures in result["judges"].items():
        low, high = figures["interval"]
        lost = figures["regret"]["1"]
        beyond = (number(figures[key]) for key in ("within_strata", "residual"))
        rows.append([judge, number(figures["kendall"]), f"{low:.2f} to {high:.2f}", *beyond, f"{100 * lost:.2f}"])
    pairs = [[pair, number(tau)] for pair, tau in result["lengths"].items()]
    name = result["benchmark"].removeprefix("rankings-")
    return f"""## Who ranks best: {name}

{told["n"]} architectures of {result["band"][0]:,} to {result["band"][1]:,} {result["metric"]}, drawn evenly over the cost, trained alone for {steps} steps
of {result["batch_size"]} images and judged by those who would choose among them (supernet of {result["supernet_steps"]:,} steps): Kendall's tau with its 95 %
interval, tau within strata of like cost, tau of what the cost does not explain, and the points of search-val that the first choice
loses against the best of all.

{table(("judge", "tau", "95 %", "within strata", "beyond cost", "first choice loses"), rows)}
Trainings against each other:

{table(("trainings", "tau"), pairs)}
`python benchmarks/rankings.py RUN --name {name} --n {told["n"]} --band {told["band"]} --steps {told["steps"]} --sensitivities {told["sensitivities"]}`
"""


def digits(result: Row) -> str:
    """Three seeds of the main job."""
    rows = [[name, spread(r["search_val"]), spread(r["test"])] for name, r in result["summary"].items()]
    seeds = len({row["seed"] for row in result["rows"]})
    return f"""## Searched and uniform bits on the digits, {result["budget"]}

`digits-mixed`, {seeds} seeds; `uniform` is the cheapest uniform configuration that costs as much as the winner, or more.

{table(("model", "search-val top-1", "test top-1"), rows)}
`python benchmarks/digits_search_vs_uniform.py --seeds {seeds} --budget {result["budget"]}`
"""


SECTIONS: dict[str, Callable[[Row], str]] = {
    **dict.fromkeys(GROUNDS, bits),
    "rankings-mobilenetv2": rankings,
    "rankings-resnet20": rankings,
    "cifar10_interference": interference,
    "digits_search_vs_uniform-2.2M": digits,
    "digits_search_vs_uniform-4M": digits,
    "cifar10_knapsack": knapsack,
    "peers-mct_resnet20": peer,
    "cifar10_quantizers-470-calibrated": quantizers,
    "cifar10_quantizers-470": quantizers,
    "cifar10_quantizers": quantizers,
}


if __name__ == "__main__":
    main()
