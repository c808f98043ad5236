"""The networks on which `sq.quantize` is tested, and the checks on each; `tools/make_models.py` prints the results."""

from __future__ import annotations

import copy
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate
from torch.utils.flop_counter import FlopCounterMode

import spos_quant as sq
from spos_quant.errors import SposQuantError

TORCHVISION = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "densenet121",
    "regnet_y_400mf",
    "mnasnet0_5",
    "googlenet",
    "convnext_tiny",
    "vgg11_bn",
    "vit_b_16",
    "swin_t",
)
TIMM = ("resnet10t", "mobilenetv3_small_100", "convnextv2_atto", "deit_tiny_patch16_224")
OWN = ("audio CNN", "MLP", "segmentation")
FAST = OWN
NAMES = (*(f"torchvision:{n}" for n in TORCHVISION), *(f"timm:{n}" for n in TIMM), *OWN)
CLASSES = 10
SIDE = 64
_MAX_STEPS, _TARGET_LOSS = 240, 0.08
"""Training stops at this number of steps, or if the mean loss of ten steps is below the target."""
_EVALUATED = 64
"""Number of images, unseen in training, on which float and quantized outputs are compared."""


class Segmentation(nn.Module):
    """An encoder-decoder with one skip connection; it predicts a class for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.last = nn.Conv2d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.cat((h, self.up(self.down(h))), 1))  # type: ignore[no-any-return]


def audio() -> nn.Module:
    layers: list[nn.Module] = []
    for i, o in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv1d(i, o, 9, 4, 4, bias=False), nn.BatchNorm1d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def make(name: str) -> tuple[nn.Module, Tensor]:
    """A network trained to classify ten kinds of images, and images that it was not trained on."""
    torch.manual_seed(0)
    model, view = _fresh(name)
    loss = _train(model, view)
    assert loss < 1, f"{name} did not learn: loss {loss:.2f}"
    return model.eval(), view(*images(_EVALUATED, 0))[0]


View = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Converts images and labels to a network's inputs and targets."""


def _fresh(name: str) -> tuple[nn.Module, View]:
    source, _, model = name.rpartition(":")
    if source == "torchvision":
        options = {"googlenet": {"aux_logits": False, "init_weights": True}, "vit_b_16": {"image_size": SIDE}}
        return torchvision.models.get_model(model, num_classes=CLASSES, **options.get(model, {})), lambda x, y: (x, y)
    if source == "timm":
        import timm

        options = {"img_size": SIDE} if model.startswith("deit") else {}
        return timm.create_model(model, num_classes=CLASSES, **options), lambda x, y: (x, y)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    own: dict[str, tuple[Callable[[], nn.Module], View]] = {
        "audio CNN": (audio, lambda x, y: (x[:, :1].flatten(2), y)),
        "MLP": (lambda: mlp, lambda x, y: (interpolate(x, (8, 8), mode="area"), y)),
        "segmentation": (Segmentation, _by_pixel),
    }
    return own[name][0](), own[name][1]


def _by_pixel(x: Tensor, _kinds: Tensor) -> tuple[Tensor, Tensor]:
    """A corner of every image, and per pixel the local mean brightness, quantized to ten classes."""
    x = x[:, :, :16, :16]
    bright = avg_pool2d(x.mean(1, keepdim=True), 3, 1, 1)[:, 0]
    return x, ((bright.clamp(-0.99, 0.99) + 1) / 2 * CLASSES).long()


def _train(model: nn.Module, view: View) -> float:
    """Trains to the target loss, then recalibrates BatchNorm statistics. Returns the mean of the last ten losses."""
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_rate(sum(p.numel() for p in model.parameters()), bool(norms)))
    losses: list[float] = []
    model.train()
    for step in range(_MAX_STEPS):
        x, y = view(*images(32, 1 + step))
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if sum(losses[-10:]) < 10 * _TARGET_LOSS and step >= 10:
            break
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for step in range(4):
            model(view(*images(32, _MAX_STEPS + 1 + step))[0])
    return sum(losses[-10:]) / 10


def _rate(parameters: int, normed: bool) -> float:
    """The learning rate: high for small networks, low for networks with huge heads and for transformers."""
    if parameters < 100_000:
        return 1e-2
    return 1e-4 if parameters > 100_000_000 else 1e-3 if normed else 3e-4


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth images `[n, 3, 64, 64]` of ten kinds, each mixed with a random smooth image and noise, and their kinds."""
    kinds = _smooth(CLASSES, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(1000 + seed)
    y = torch.randint(CLASSES, (n,), generator=generator)
    noise = torch.randn(n, 3, SIDE, SIDE, generator=generator)
    return kinds[y] + 0.5 * _smooth(n, generator) + 0.1 * noise, y


def _smooth(n: int, generator: torch.Generator) -> Tensor:
    return interpolate(torch.randn(n, 3, 4, 4, generator=generator), (SIDE, SIDE), mode="bilinear")


@dataclass
class Found:
    """The results of one network."""

    name: str
    layers: int
    left_float: int
    """Number of layers that could not be replaced."""
    macs: int
    float_macs_outside: int
    agreement: float
    """Share of images with the float model's label, at W8A8 in all layers."""
    relative_error: float
    """Error of the logits at W8A8, relative to the logits without their mean over the images."""
    float_equal: bool
    subnet_equal: bool
    macs_equal: bool
    survives: bool
    """Whether outputs stay equal after a copy, after saving and loading, and in four threads."""
    onnx: str


def examine(name: str) -> Found:
    """Trains a network for a few steps, quantizes it and computes all checks."""
    return _examine(name, *make(name))


@torch.no_grad()
def _examine(name: str, model: nn.Module, x: Tensor) -> Found:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        supernet = sq.quantize(model, x, [(4, 4), (8, 8)], keep_float=())
    skipped = [str(w.message).split()[0] for w in caught if "layers stay float" in str(w.message)]
    reference = model(x)
    supernet.activate_float()
    float_equal = torch.equal(supernet(x), reference)
    a = supernet.space.uniform(8, 8)
    supernet.activate(a)
    y = supernet(x)
    b = supernet.space.sample(np.random.default_rng(0))
    supernet.activate(b)
    subnet = supernet.subnet(b)
    subnet_equal = torch.equal(subnet(x), supernet(x))
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter:
        model(x[:1])
    cost = supernet.cost(b)
    measured = sq.measure(subnet, x)
    macs_equal = cost["macs"] == counter.get_total_flops() // 2 == measured["macs"]
    centered = reference - reference.mean(0)
    return Found(
        name,
        len(supernet.space.layers),
        int(skipped[0]) if skipped else 0,
        cost["macs"],
        supernet.space.network_shapes.other_macs,
        float((y.argmax(1) == reference.argmax(1)).float().mean()),
        float((y - reference).norm() / centered.norm()),
        float_equal,
        subnet_equal,
        macs_equal and measured["bitops"] == cost["bitops"],
        _survives(supernet, x),
        _onnx(supernet.subnet(a), x[:2]),
    )


def _survives(supernet: Any, x: Tensor) -> bool:
    expected = supernet(x[:4])
    copied = copy.deepcopy(supernet)
    for parameter in copied.parameters():
        parameter.zero_()
    copied.load_state_dict(supernet.state_dict())
    found = [copied(x[:4])]
    threads = [threading.Thread(target=lambda: found.append(_quiet(supernet, x[:4]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(found) == 5 and all(torch.equal(y, expected) for y in found)


@torch.no_grad()
def _quiet(supernet: Any, x: Tensor) -> Tensor:
    y: Tensor = supernet(x)
    return y


def _onnx(model: nn.Module, x: Tensor) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            sq.export_onnx(model, x, Path(folder) / "m.onnx")
        except SposQuantError as error:
            return "labels differ" if "labels" in str(error) else f"no: {str(error)[:60]}"
        except Exception as error:  # noqa: BLE001 - torch's exporter raises many types
            return f"no: {type(error).__name__}"
    return "yes"
