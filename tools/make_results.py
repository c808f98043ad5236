#!/usr/bin/env python3
"""Writes docs/results.md from benchmarks/results/*.json: what bits are worth, whatever the figures say.

python tools/make_results.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "results.md"
RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# Results

What bit configurations are worth, from the scripts that measured it. Test accuracy decided nothing: choices were made on
search-val. CIFAR-10 here has 30,000 training images; the float weights of its ResNet-20 were trained by their author on all
50,000, so images held out of ours are not unseen by them. The test images are.
"""

Row = dict[str, Any]


def main() -> None:
    """Writes the page."""
    PATH.write_text(text(), "utf-8")


def text() -> str:
    """The page of the figures at hand."""
    return "\n".join([HEAD, *(part for part in map(section, SECTIONS) if part)])


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
    chosen = ", ".join(f"{variant} at {bits}" for bits, variant in result["chosen"].items())
    measured = [s for s in result["summary"] if s["bits"] != "float"]
    tried = " ".join(
        f"--{key} {','.join(dict.fromkeys(s[name] for s in measured))}"
        for key, name in (("bits", "bits"), ("variants", "variant"))
    )
    return f"""## Quantizers and recipes of retraining: {result["steps"]} steps{result.get("heading", "")}

ResNet-20 at uniform bits, from the same float weights, {result["steps"]} steps of {result["batch_size"]} images, learning rate {result["lr"]} falling to 0;
`baseline` is `gaussian+pact`, the default until `midrise+pact` took its place, and the quantizer of `distill` and `progressive`;
`stock` is Brevitas's own step and clip. Best on search-val: {chosen}.{result.get("notes", "")}

{table(("bits", "variant", "seeds", "search-val top-1", "test top-1"), rows)}
`python benchmarks/cifar10_quantizers.py --data imagefolder:CIFAR --weights FILE --work DIR --steps {result["steps"]} {tried} --name {result["benchmark"]}`
"""


def bits(result: Row) -> str:
    """Rows at equal BitOps."""
    rows = [
        [
            r["space"],
            f"{r['budget']['bitops'] / 1e6:,.1f} M" if r["budget"] else "-",
            r["bits"],
            "-" if r["bitops"] is None else f"{r['bitops'] / 1e6:,.1f} M",
            percent(r["search_val_top1_mean"]),
            percent(r["top1_mean"]),
            "-" if r["top1_std"] is None else f"{100 * r['top1_std']:.2f}",
            str(r["seeds"]),
        ]
        for r in result["rows"]
    ]
    told = result["command"]
    weights = ["--weights FILE"] if told["weights"] else []
    tried = [f"--{key} {told[key]}" for key in ("spaces", "uniform", "bits") if told.get(key)]
    settings = " ".join(
        [*weights, *tried, f'--budgets "{told["budgets"]}"', *(f"--set {text}" for text in told["set"])]
    )
    steps = {key: value for key, _, value in (text.partition("=") for text in told["set"])}
    fresh = "fresh weights" if steps.get("retrain.init") == "fresh" else "their supernet's weights"
    start = "the same float weights" if weights else fresh
    seeds, several = told["seeds"], f", {told['seeds']} seeds" if told["seeds"] > 1 else ""
    if seeds > 1:
        settings = f"--seeds {seeds} {settings}"
    return f"""## Searched, knapsack, random and uniform bits at equal BitOps: {result["network"]}, {steps["retrain.iterations"]} steps{several}{result.get("heading", "")}

All rows of a space take the same steps from {start}; `best` is what the search found in a supernet of
{steps["train.iterations"]} steps. Budgets that the command names and the table lacks are not measured yet.
{result.get("notes", "")}
{table(("space", "budget", "bits", "BitOps", "search-val top-1", "test top-1", "std", "seeds"), rows)}
`python benchmarks/cifar10_bits.py --network {result["network"]} --data imagefolder:CIFAR --work DIR --name {result["benchmark"]} {settings}`
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
    rows = []
    for one in result["rankings"]:
        what = f"{one['space']}, {one['supernet_steps']:,} steps"
        judges = one["judges"] | ({"another seed of training alone": one["ceiling"]} if one["ceiling"] else {})
        for judge, figures in judges.items():
            low, high = figures.get("interval") or (None, None)
            between = "-" if low is None else f"{low:.2f} to {high:.2f}"
            beyond = (number(figures.get(key)) for key in ("within_strata", "residual"))
            lost = (figures.get("regret") or {}).get("1")
            rows.append(
                [
                    what,
                    judge,
                    number(figures["kendall"]),
                    between,
                    *beyond,
                    "-" if lost is None else f"{100 * lost:.2f}",
                ]
            )
    made = "; ".join(
        f"`{one['space']}`: {one['n']} architectures of {one['band'][0]:,} to {one['band'][1]:,} {one['metric']}, {one['alone_steps']} steps alone, "
        f"{one['seeds']} seed{'s' if one['seeds'] > 1 else ''}"
        for one in result["rankings"]
    )
    commands = "\n".join(
        f"`spos-quant rank RUN --n {one['n']} --seeds {one['seeds']} --band {one['band'][0]}:{one['band'][1]} --set rank.iterations={one['alone_steps']}`"
        for one in result["rankings"]
    )
    return f"""## Who ranks best: the supernet or the sum of sensitivities

Architectures drawn evenly over the cost, trained alone from the float weights, and judged by those who would choose among them: Kendall's tau
and its 95 % interval, that within strata of like cost, that of what the cost does not explain, and the points of search-val that the first choice loses
against the best of all. {made}.
{result.get("notes", "")}
{table(("space, supernet", "judge", "tau", "95 %", "within strata", "beyond cost", "first choice loses"), rows)}
{commands}
`python benchmarks/rankings.py RUN RUN`
"""


def recalibration(result: Row) -> str:
    """Images that recalibration needs."""
    rows = [
        [
            f"{r['images']:,}",
            *("-" if r[key] is None else f"{r[key]:.2f}" for key in ("kendall", "spearman")),
            *(f"{100 * r[key]:.2f}" for key in ("regret", "mean_difference")),
        ]
        for r in result["table"]
    ]
    return f"""## How many images recalibration needs

{result["n"]} architectures of `{result["space"]}` between four fifths and the whole of {result["budget"]}, scored on {result["scored"]:,} images of search-val in
a trained supernet, after recalibration from so many images against the largest amount: rank correlations, what choosing
the best by it gives up, and how far scores are apart (points).

{table(("images", "Kendall", "Spearman", "regret", "difference"), rows)}
`python benchmarks/recalibration.py RUN --n {result["n"]} --budget {result["budget"]} --work DIR`
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
    "cifar10_quantizers-470-calibrated": quantizers,
    "cifar10_quantizers-470": quantizers,
    "cifar10_quantizers": quantizers,
    "cifar10_bits-resnet20-470-seeds": bits,
    "cifar10_bits-resnet20-470": bits,
    "cifar10_bits-resnet20-470-width": bits,
    "cifar10_bits-resnet20-470-loss": bits,
    "cifar10_bits-resnet20-470-first": bits,
    "cifar10_bits-resnet20": bits,
    "cifar10_bits-mobilenetv2-seeds": bits,
    "cifar10_bits-resnet20-skip": bits,
    "cifar10_bits-resnet20-ops": bits,
    "cifar10_bits-resnet20-ops-fresh": bits,
    "cifar10_bits-mobilenetv2-finals-seeds": bits,
    "cifar10_bits-mobilenetv2-finals": bits,
    "cifar10_bits-mobilenetv2-loss-seeds": bits,
    "cifar10_bits-mobilenetv2": bits,
    "cifar10_bits-mobilenetv2-loss": bits,
    "rankings": rankings,
    "cifar10_interference": interference,
    "recalibration": recalibration,
    "cifar10_knapsack": knapsack,
    "peers-mct_resnet20": peer,
    "digits_search_vs_uniform-2.2M": digits,
    "digits_search_vs_uniform-4M": digits,
}


if __name__ == "__main__":
    main()
