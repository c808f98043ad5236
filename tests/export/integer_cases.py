"""Small networks of every family with random statistics, quantized at given bits, and a runner for their files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import spos_quant as sq
from spos_quant.backbones.build import build, space_of
from spos_quant.export.integer.formats import integer_graph
from spos_quant.export.integer.graph import IntegerGraph
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.calibrate import calibrate_clips

SHAPE = (3, 8, 8)


def images(n: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def _conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> list[nn.Module]:
    made = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [made, nn.BatchNorm2d(outputs)]


class Vgg(nn.Sequential):
    """A chain with pooling and two linear layers."""

    def __init__(self) -> None:
        super().__init__(
            *_conv(3, 8), nn.ReLU(), *_conv(8, 8), nn.ReLU(), nn.MaxPool2d(2), *_conv(8, 12), nn.ReLU6(),
            nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5),
        )  # fmt: skip


class Mobile(nn.Module):
    """An inverted residual with a depthwise layer, hard-swish and squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, 8), nn.Hardswish())
        self.expand = nn.Sequential(*_conv(8, 16, 1), nn.Hardswish(), *_conv(16, 16, 3, 16), nn.SiLU())
        self.fc1, self.fc2 = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project = nn.Sequential(*_conv(16, 8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.expand(x)
        gate = nn.functional.hardsigmoid(self.fc2(self.fc1(nn.functional.adaptive_avg_pool2d(y, 1)).relu()))
        return self.head((x + self.project(y * gate)).mean((2, 3)))


class Shuffle(nn.Module):
    """Blocks on half of the channels, with the concatenation and channel shuffle of torchvision's ShuffleNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, 8), nn.ReLU(), nn.AvgPool2d(2))
        self.branches = nn.ModuleList(
            nn.Sequential(*_conv(4, 4, 1), nn.ReLU(), *_conv(4, 4, 3, 4), *_conv(4, 4, 1), nn.ReLU()) for _ in range(2)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            a, b = x.chunk(2, 1)
            n, c, h, w = x.shape
            x = torch.cat((a, branch(b)), 1).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.mean((2, 3)))


class Stem(nn.Sequential):
    """Padded pooling with overlapping windows directly after the first layer."""

    def __init__(self) -> None:
        super().__init__(
            *_conv(3, 8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *_conv(8, 12), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
        )  # fmt: skip


class PreAct(nn.Module):
    """BatchNorm before layers, a zero-padded shortcut, and dense connections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 10, 3, 2, padding=1)
        self.last, self.head = nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(self.norm(x).relu())
        short = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(self.last(torch.cat((y + short, x[:, :, 1::2, 1::2]), 1)).relu().mean((2, 3)))


FAMILIES = {"vgg": Vgg, "mobile": Mobile, "shuffle": Shuffle, "preact": PreAct, "stem": Stem}


def _randomized(model: nn.Module) -> nn.Module:
    """The model with random BatchNorm statistics, and factors of both signs and one zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for norm in model.modules():
            if hasattr(norm, "running_var"):
                shape = norm.running_var.shape
                norm.weight.copy_((torch.rand(shape, generator=generator) + 0.5) * torch.randn(shape).sign())
                norm.weight[0] = 0
                norm.bias.copy_(torch.rand(shape, generator=generator) - 0.2)
                norm.running_mean.copy_(torch.randn(shape, generator=generator) * 0.1)
                norm.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
    return model


@cache
def model(family: str, weight_bits: int, act_bits: int, keep_float: tuple[str, ...] = ("first", "last")) -> nn.Module:
    """A plain Brevitas model in evaluation mode: a built-in backbone for `resnet`, else `sq.quantize` of a model."""
    torch.manual_seed(1)
    if family == "resnet":
        spec = {
            "name": "case", "backbone": "digits-resnet", "input": list(SHAPE), "classes": 5,
            "axes": {"bits": [[weight_bits, act_bits]]}, "keep_float": list(keep_float),
        }  # fmt: skip
        supernet = build(space_of(parse_spec(spec, "case")), seed=3)
        _randomized(supernet)
        calibrate_clips(supernet, images(8, seed=9), running_statistics=True)
        return supernet.subnet(()).eval()
    float_model = _randomized(FAMILIES[family]())
    batches = [images(8, seed=9)]
    bits = [(weight_bits, act_bits)]
    supernet = sq.quantize(float_model.eval(), images(2), bits=bits, keep_float=keep_float, calibrate=batches)
    return supernet.subnet((0,) * len(supernet.space.axes)).eval()


@cache
def graph(
    family: str, weight_bits: int, act_bits: int, keep_float: tuple[str, ...] = ("first", "last")
) -> IntegerGraph:
    return integer_graph(model(family, weight_bits, act_bits, keep_float), images(8, seed=9))


def outputs(path: Path, x: Tensor, level: str = "ORT_ENABLE_ALL", optimized: Path | None = None) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x.numpy()})[0]
