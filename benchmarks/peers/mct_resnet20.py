"""Sony's Model Compression Toolkit on the task of `benchmarks/cifar10_knapsack.py`: same weights, images and budget.

Runs its mixed-precision post-training quantization (an integer program) with weights at 8, 4 or 2 bits and activations
at 8; measures seconds, test accuracy and the exported file. It needs its own environment:

    python -m venv mct && mct/bin/pip install model-compression-toolkit==2.6.1 onnxscript .
    mct/bin/python benchmarks/peers/mct_resnet20.py --data imagefolder:cifar10 --weights resnet20-cifar10.safetensors
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import write_result

from spos_quant.backbones.build import build, space_of
from spos_quant.data import DataSet, load_data
from spos_quant.space.spec import parse_spec
from spos_quant.train.batches import FixedBatches
from spos_quant.train.evaluation import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="imagefolder:ROOT or cifar10:ROOT")
    parser.add_argument("--weights", required=True, help="float weights of a CIFAR ResNet-20")
    parser.add_argument("--images", type=int, default=512, help="calibration images [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = load_data(given.data, input=(3, 32, 32), classes=10, seed=given.seed)
    model, weights = float_network(given.weights)
    budget = weights / 2  # bytes, at four bits per weight
    start = time.perf_counter()
    quantized = compress(model, images_of(data, given), budget)
    seconds = time.perf_counter() - start
    test = FixedBatches(data, "test", images=None, batch_size=500, seed=given.seed)
    rows = [{"name": "float", **vars(score(model, test))}, {"name": "MCT", **vars(score(quantized, test))}]
    for row in rows:
        print(row)
    figures = {
        "settings": vars(given) | {"data": given.data.partition(":")[0], "weights": Path(given.weights).name},
        "tool": {"model-compression-toolkit": version("model-compression-toolkit")},
        "weight_budget_bytes": budget,
        "weight_bits": weight_bits(quantized),
        "seconds": seconds,
        "load_average": os.getloadavg()[0],
        "file_bytes": file_bytes(quantized, images_of(data, given)),
        "rows": rows,
    }
    print(write_result("peers-mct_resnet20", figures))


def float_network(weights: str) -> tuple[torch.nn.Module, int]:
    """The float network, and its number of weights."""
    raw = {"name": "float", "backbone": "resnet20", "weights": weights, "input": [3, 32, 32], "classes": 10}
    supernet = build(space_of(parse_spec(raw, "benchmark")))
    return supernet.subnet(()).eval(), sum(layer.shapes[0].weights for layer in supernet.space.layers)


def images_of(data: DataSet, given: argparse.Namespace) -> Callable[[], Iterator[list[Any]]]:
    batches = FixedBatches(data, "train", images=given.images, batch_size=64, seed=given.seed)
    return lambda: ([x.numpy()] for x, _ in batches)


def compress(model: torch.nn.Module, images: Callable[..., Any], budget: float) -> torch.nn.Module:
    import model_compression_toolkit as mct

    quantized: torch.nn.Module
    quantized, _ = mct.ptq.pytorch_post_training_quantization(
        model,
        images,
        target_resource_utilization=mct.core.ResourceUtilization(weights_memory=budget),
        core_config=mct.core.CoreConfig(mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig()),
    )
    return quantized


def weight_bits(model: torch.nn.Module) -> list[int]:
    """Bits of every quantized weight, in order."""
    found = []
    for module in model.modules():
        for quantizer in getattr(module, "weights_quantizers", {}).values():
            found.append(int(quantizer.num_bits))
    return found


def file_bytes(model: torch.nn.Module, images: Callable[..., Any]) -> int:
    import model_compression_toolkit as mct

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        # MCT does not support torch's newer exporter.
        with patch("torch.onnx.export", partial(torch.onnx.export, dynamo=False)):
            mct.exporter.pytorch_export_model(model, str(path), repr_dataset=images)
        return sum(file.stat().st_size for file in Path(folder).iterdir())


if __name__ == "__main__":
    main()
