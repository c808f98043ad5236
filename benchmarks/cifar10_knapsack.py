"""Mixed-precision post-training quantization of a float ResNet-20 on CIFAR-10: duration and accuracy.

Weights have 8, 4 or 2 bits per layer in all 20 layers, with the bytes of uniform 4 bits; inputs have 8 bits.
Sensitivities come from gradients on training images, or from evaluations on search-val. The knapsack minimizes their
sum exactly. The test set is used only for the final figures; BatchNorm statistics are recomputed from training images.

    python benchmarks/cifar10_knapsack.py --data imagefolder:cifar10 --weights resnet20-cifar10.safetensors

The float weights must have been trained with the normalisation of the data set: `imagefolder` uses the mean and
standard deviation of ImageNet, `cifar10` its own.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import write_result

import spos_quant as sq
from spos_quant.backbones.build import build, space_of
from spos_quant.data import DataSet, load_data
from spos_quant.space.search_space import Architecture
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.calibrate import calibrate_clips
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.batches import FixedBatches
from spos_quant.train.evaluation import recalibrate, score

BUDGET = "w4a8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="imagefolder:ROOT or cifar10:ROOT")
    parser.add_argument("--weights", required=True, help="float weights of a CIFAR ResNet-20")
    parser.add_argument("--estimate", choices=("gradient", "measured"), default="gradient")
    parser.add_argument("--images", type=int, default=512, help="images for the sensitivities [%(default)s]")
    parser.add_argument(
        "--recalibration-images", type=int, default=4096, help="images for BatchNorm statistics of the final figures"
    )
    parser.add_argument("--quantizer", default="mse+pact")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--name", default="cifar10_knapsack", help="name of the result")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    seconds: dict[str, float] = {}
    with timed("load data", seconds):
        data = load_data(given.data, input=(3, 32, 32), classes=10, seed=given.seed)
    with timed("build and calibrate", seconds):
        supernet = quantized(given.weights, given.quantizer, data, given.seed)
    with timed("sensitivities", seconds):
        sensitivity = estimate(supernet, data, given)
    with timed("knapsack", seconds):
        (best,) = sensitivity.optima(supernet.table, weight_bytes_budget=BUDGET)
    figures = {
        "settings": vars(given) | {"data": given.data.partition(":")[0], "weights": Path(given.weights).name},
        "images": {name: len(data.split(name)) for name in ("train", "search-val", "test")},
        "load_average": os.getloadavg()[0],
        "seconds": seconds,
        "seconds_in_all": sum(seconds.values()),
        "sensitivities": sensitivity.to_json(supernet.table)["rows"],
        "rows": rows(supernet, best, data, given),
    }
    print(f"{'weights':10} {'bytes':>8} {'test top-1':>11} {'loss':>8}   bits")
    for row in figures["rows"]:
        print(f"{row['name']:10} {row['weight_bytes']:8,} {row['top1']:11.2%} {row['loss']:8.4f}   {row['bits']}")
    print({name: round(value, 1) for name, value in seconds.items()}, f"load average {figures['load_average']:.1f}")
    print(write_result(given.name, figures))


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def quantized(weights: str, quantizer: str, data: DataSet, seed: int) -> Supernet:
    """The supernet of the float network with bits per layer; clips are calibrated on 256 training images."""
    raw = {
        "name": "resnet20-weights",
        "backbone": "resnet20",
        "weights": weights,
        "input": [3, 32, 32],
        "classes": 10,
        "axes": {"bits": [[8, 8], [4, 8], [2, 8]]},
        "bits_per": "layer",
        "keep_float": [],
        "quantizer": quantizer,
    }
    supernet = build(space_of(parse_spec(raw, "benchmark")))
    images, _ = next(iter(training(data, 256, seed)))
    calibrate_clips(supernet, images, running_statistics=True)
    return supernet.eval()


def training(data: DataSet, images: int, seed: int) -> FixedBatches:
    return FixedBatches(data, "train", images=images, batch_size=min(images, 256), seed=seed)


def estimate(supernet: Supernet, data: DataSet, given: argparse.Namespace) -> Any:
    batches = training(data, given.images, given.seed)
    if given.estimate == "gradient":
        return sq.sensitivity(supernet, estimate="gradient", batches=batches, seed=given.seed)
    held_out = FixedBatches(data, "search-val", images=given.images, batch_size=256, seed=given.seed)
    return sq.sensitivity(
        supernet, evaluate=lambda module: -score(module, held_out).loss, recalibrate=batches, show=True
    )


def rows(supernet: Supernet, best: Architecture, data: DataSet, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Test accuracy of the optimum and of uniform bits, with recomputed BatchNorm statistics."""
    space, batches = supernet.space, training(data, given.recalibration_images, given.seed)
    test = FixedBatches(data, "test", images=None, batch_size=500, seed=given.seed)
    found = []
    for name, a in (("knapsack", best), ("uniform 4", space.uniform(4, 8)), ("uniform 8", space.uniform(8, 8))):
        supernet.activate(a)
        recalibrate(supernet, batches)
        scored = score(supernet, test)
        found.append(
            {
                "name": name,
                "bits": " ".join(str(axis.candidates[i][0]) for axis, i in zip(space.axes, a, strict=True)),
                "weight_bytes": supernet.table.total(a, "weight_bytes"),
                "bitops": supernet.table.total(a, "bitops"),
                **vars(scored),
            }
        )
    return found


if __name__ == "__main__":
    main()
