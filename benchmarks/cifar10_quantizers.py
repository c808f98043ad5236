"""Compares quantizers and recipes for retraining ResNet-20: same float weights, same steps, one row per variant.

    python benchmarks/cifar10_quantizers.py --data imagefolder:CIFAR --weights resnet20.safetensors --work DIR
    python benchmarks/cifar10_quantizers.py --tiny            # smoke test on fake data, without weights

Every row starts from the float weights, is quantized, trained for `--steps` steps and recalibrated. A step of 128
images takes about half a second on two idle cores. A killed command resumes if repeated; results are written after
every variant. The weights must have been trained with the normalisation of the data (`imagefolder` uses ImageNet's mean
and standard deviation, `cifar10` its own); the row `float` shows whether they were.

A variant is a list of words joined by `+`:

    baseline     `gaussian+pact`: gaussian weight scales, calibrated clips that are then learned (PACT)
    stock        weight scales from the largest weight, clips start at 6.0: the defaults of Brevitas
    lsq          learned weight scales, initialized with the gaussian ones
    midrise      four levels without zero at 2 bits (equals the baseline at other bits, whose rows are left out)
    lsq-midrise  the same with learned scales
    distill      half of the loss is distillation from the float model
    progressive  8 bits for the first half of the steps, then the row's bits
    ema          moving average of the weights, decay 0.999
    bf16         training of the default quantizer under bf16 autocast

`chosen` is the best variant per bits on search-val; the test split is only reported.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import mean, pstdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from common import several, write_result

from spos_quant.run_dir import drop
from spos_quant.space.bit_config import parse_uniform, read_bit_config
from spos_quant.stages.evaluate import evaluate_result, measured
from spos_quant.stages.models import float_teacher, make_network, recalibration_batches, scoring_batches
from spos_quant.stages.open_run import Options, plan_run
from spos_quant.stages.retrain import retrain_result, user_result
from spos_quant.stages.run import Result, Run
from spos_quant.supernet.weights import save_weights
from spos_quant.train.devices import make_fabric
from spos_quant.train.evaluation import recalibrate, score
from spos_quant.train.loop import Training, fit

WORDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "stock": {"quantizer": "absmax+pact"},
    "lsq": {"quantizer": "lsq+pact"},
    "midrise": {"quantizer": "midrise+pact"},
    "lsq-midrise": {"quantizer": "lsq-midrise+pact"},
    "distill": {"distill": 0.5},
    "progressive": {"progressive": 0.5},
    "ema": {"ema": 0.999},
    "bf16": {"quantizer": "midrise+pact", "precision": "bf16-mixed"},
}
Job = tuple[str, int]
"""A variant and a seed."""
SINGLE = ",".join(WORDS)
PAIRS = "midrise+distill,lsq-midrise+distill,lsq+distill"


def main() -> None:
    given = arguments()
    variants, all_bits = given.variants.split(","), given.bits.split(",")
    jobs = [(variant, seed) for seed in range(given.seeds) for variant in variants]
    with TemporaryDirectory() as folder:
        work = Path(folder) if given.tiny else Path(given.work)
        first = [float_row(open_run(work, *jobs[0], given))] if given.weights else []
        rows: list[dict[str, Any]] = []
        for made in several(given.workers, partial(rows_of, work, given), jobs):
            for one in made:
                show(one)
            rows += made
            rows.sort(key=lambda row: (row["seed"], all_bits.index(row["bits"]), variants.index(row["variant"])))
            report([*first, *rows], given)


def rows_of(work: Path, given: argparse.Namespace, job: Job) -> list[dict[str, Any]]:
    """The rows of one variant and seed."""
    variant, seed = job
    run = open_run(work, variant, seed, given)
    made = given.bits.split(",")
    if "midrise" in variant:
        made = [bits for bits in made if (parse_uniform(bits) or (0,))[0] == 2]
    return [row(run, variant, bits, given) for bits in made]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="cifar10:ROOT or imagefolder:ROOT")
    parser.add_argument("--weights", help="float weights of ResNet-20")
    parser.add_argument("--work", help="folder of the run directories")
    parser.add_argument("--steps", type=int, default=470, help="optimizer steps of every row (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=0.01, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--bits", default="w2a2,w3a3,w4a4")
    parser.add_argument("--variants", default=f"{SINGLE},{PAIRS}")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--workers", type=int, default=0, help="worker processes; each trains one variant and seed at a time"
    )
    parser.add_argument("--name", default="cifar10_quantizers", help="name of the results file")
    parser.add_argument("--tiny", action="store_true", help="smoke test: fake data, two steps")
    given = parser.parse_args()
    if given.tiny:
        given.data, given.weights, given.steps, given.bits = "fake", None, 2, "w2a2"
    elif not (given.data and given.weights and given.work):
        parser.error("give --data, --weights and --work, or --tiny")
    for variant in given.variants.split(","):
        settings_of(variant, parser)
    for bits in given.bits.split(","):
        if parse_uniform(bits) is None:
            parser.error(f"{bits!r}: expected bits such as w2a2")
    return given


def settings_of(variant: str, parser: argparse.ArgumentParser | None = None) -> dict[str, Any]:
    """The keys of `retrain` that a variant changes."""
    unknown = [word for word in variant.split("+") if word not in WORDS]
    if unknown and parser is not None:
        parser.error(f"unknown variant {unknown[0]!r}; expected words of {', '.join(WORDS)} joined by +")
    return {key: value for word in variant.split("+") for key, value in WORDS[word].items()}


def open_run(work: Path, variant: str, seed: int, given: argparse.Namespace) -> Run:
    """Opens the run directory of one variant and seed; creates it if it is new."""
    settings = settings_of(variant)
    if given.tiny:  # there is no float model to distil from
        settings.pop("distill", None)
    small = {"batch_size": 16, "checkpoint_steps": 1} if given.tiny else {"batch_size": 128, "checkpoint_minutes": 2.0}
    space = {
        "name": "resnet20-quantizers",
        "backbone": "resnet20",
        "quantizer": "gaussian+pact",
        "input": [3, 32, 32],
        "classes": 10,
        "weights": None if given.weights is None else str(Path(given.weights).resolve()),
        "axes": {"bits": [[2, 2], [3, 3], [4, 4], [8, 8]]},
        "retrain": {
            "init": "fresh",  # from the float weights, without a supernet
            "iterations": given.steps,
            "lr": given.lr,
            "warmup_epochs": 0.0,
            "weight_decay": 1e-4,
            "label_smoothing": 0.0,
            **small,
            **settings,
        },
        "search": {"recalibration_images": 64 if given.tiny else 1024},
    }
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{variant}-s{seed}.yaml"
    path.write_text(yaml.safe_dump(space))
    out = work / f"{variant}-s{seed}"
    with plan_run(str(path), Options(out=out, data=given.data, seed=seed)).open() as run:
        return run


def row(run: Run, variant: str, bits: str, given: argparse.Namespace) -> dict[str, Any]:
    """Measures one variant at uniform bits; retrains it first unless that is done."""
    with plan_run(str(run.path), Options()).open() as owned:
        result = user_result(owned, bits)
        if "stock" in variant.split("+") and not result.model_path.exists():
            retrain_uncalibrated(result, given.device)
        alone = not given.workers
        retrain_result(result, device=given.device, show=alone)
        top1 = {
            split: evaluate_result(result, split, device=given.device, show=alone) for split in ("search-val", "test")
        }
        cost = measured(result)
    config = read_bit_config(result.bits_path)
    return {
        "variant": variant,
        "bits": bits,
        "seed": run.seed,
        "quantizer": config.quantizer,
        "retrain": {key: value for key, value in settings_of(variant).items() if key != "quantizer"},
        "steps": given.steps,
        "bitops": cost["bitops"],
        "weight_bytes": cost["weight_bytes"],
        "search_val_top1": top1["search-val"]["top1"],
        "test_top1": top1["test"]["top1"],
    }


def retrain_uncalibrated(result: Result, device: str) -> None:
    """Retrains with clips that start at 6.0, the default of Brevitas's examples, instead of calibrated ones."""
    run, settings = result.run, result.run.spec.retrain
    network = make_network(run, read_bit_config(result.bits_path), inherited=False, seed=run.seed)
    with torch.no_grad():
        for quantizer in network.input_quantizers():
            for clip in quantizer.parameters():
                clip.fill_(6.0)
    model = network.subnet(())
    label = f"retrain {result.key}, clips at 6.0"
    training = Training(run.data, settings, run.seed, label, checkpoint=result.checkpoint_path, identity="stock")
    records = fit(make_fabric(settings, device), model, training, teacher=float_teacher(run, settings.distill))
    recalibrate(model, recalibration_batches(run))
    save_weights(model, result.model_path, {"history": records})
    drop(result.checkpoint_path)


def float_row(run: Run) -> dict[str, Any]:
    """Accuracy of the given float weights, untrained and with their own BatchNorm statistics."""
    model = float_teacher(run, 1.0)
    assert model is not None
    scores = {split: score(model, scoring_batches(run, split, all_images=True)) for split in ("search-val", "test")}
    made = {"variant": "float", "bits": "float", "seed": run.seed, "steps": 0}
    return made | {"search_val_top1": scores["search-val"].top1, "test_top1": scores["test"].top1}


def show(made: dict[str, Any]) -> None:
    accuracies = f"search-val {100 * made['search_val_top1']:.2f} %, test {100 * made['test_top1']:.2f} %"
    print(f"{made['bits']:6} {made['variant']:24} seed {made['seed']}: {accuracies}", flush=True)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, per bits and variant."""
    found = []
    for bits, variant in dict.fromkeys((r["bits"], r["variant"]) for r in rows):
        mine = [r for r in rows if (r["bits"], r["variant"]) == (bits, variant)]
        made: dict[str, Any] = {"bits": bits, "variant": variant, "seeds": len(mine)}
        for key in ("search_val_top1", "test_top1"):
            values = [r[key] for r in mine]
            made[key] = {"mean": mean(values), "std": pstdev(values)}
        found.append(made)
    return found


def report(rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Writes the results so far."""
    table = summary(rows)
    chosen = {}
    for bits in given.bits.split(","):
        mine = [line for line in table if line["bits"] == bits]
        if mine:
            chosen[bits] = max(mine, key=lambda line: line["search_val_top1"]["mean"])["variant"]
    if not given.tiny:
        settings = {"steps": given.steps, "lr": given.lr, "batch_size": 128, "seeds": given.seeds}
        # Without the folder, which is specific to this machine.
        data = {"data": given.data.partition(":")[0], "weights": Path(given.weights).name}
        write_result(given.name, {**settings, **data, "summary": table, "chosen": chosen, "rows": rows})


if __name__ == "__main__":
    main()
