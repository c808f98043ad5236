"""Time of oneDNN's 8-bit convolutions relative to torch's float convolutions, per shape.

    python benchmarks/int8_convolution.py       # seconds

Both run on one thread, channels last, in interleaved rounds. The integer convolution takes quantized inputs and returns
float sums, as in an evaluator; the time to quantize its inputs is not included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import write_result

from spos_quant.export.latency import median_seconds

SHAPES = {
    "resnet20 at 32, stage 1": (16, 32, 128),
    "resnet20 at 32, stage 2": (32, 16, 128),
    "resnet20 at 32, stage 3": (64, 8, 128),
    "resnet18 at 64, stage 1": (64, 16, 64),
    "resnet18 at 64, stage 2": (128, 8, 64),
    "resnet18 at 64, stage 3": (256, 4, 64),
}
"""Channels (in = out), side of the images, batch size."""
_SCALE, _ROUNDS = 0.1, 25


def pair(channels: int, side: int, images: int) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """The integer and the float convolution of 4-bit weights and inputs."""
    weight = torch.randint(-7, 8, (channels, channels, 3, 3), dtype=torch.int8)
    scale = torch.rand(channels) + 0.1
    x = torch.randint(0, 16, (images, channels, side, side), dtype=torch.uint8)
    x = x.to(memory_format=torch.channels_last)
    one, none = [1, 1], torch.zeros(channels, dtype=torch.int32)
    packed = torch.ops.onednn.qconv_prepack(weight, scale, _SCALE, 0, one, one, one, 1, list(x.shape))
    real, kernel = x.float() * _SCALE, weight.float() * scale.view(-1, 1, 1, 1)
    kernel = kernel.to(memory_format=torch.channels_last)

    def integers() -> torch.Tensor:
        rest: tuple[Any, ...] = (one, one, one, 1, 1.0, 0, torch.float32, "none", [None], "")
        made: torch.Tensor = torch.ops.onednn.qconv2d_pointwise(x, _SCALE, 0, packed, scale, none, None, *rest)
        return made

    return integers, lambda: F.conv2d(real, kernel, padding=1)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, shape in SHAPES.items():
        calls = pair(*shape)
        difference = float((calls[0]() - calls[1]()).abs().max() / calls[1]().abs().max())
        integers, floats = median_seconds(calls, _ROUNDS)
        ratio = integers / floats
        rows.append({"shape": name, "int8_per_float": ratio, "largest_relative_difference": difference})
        print(f"{name:26} {ratio:5.2f} of the float convolution; outputs differ by {difference:.1e}", flush=True)
    vnni = bool(torch.cpu._is_vnni_supported())
    print(f"VNNI: {'yes' if vnni else 'no'}")
    write_result("int8_convolution", {"vnni": vnni, "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
