"""The networks that `sq.quantize` is held against, and what is looked at in each; `tools/make_models.py` prints it."""

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
from torch.nn.functional import interpolate
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
FAST = ("torchvision:squeezenet1_1", "audio CNN", "MLP", "segmentation")
NAMES = (*(f"torchvision:{n}" for n in TORCHVISION), *(f"timm:{n}" for n in TIMM), *OWN)
FULL_SIZE = ("vit_b_16", "swin_t", "deit_tiny_patch16_224")
CLASSES = 10


class Segmentation(nn.Module):
    """Down, up and a skip: a class for every pixel."""

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
    """A network with fresh weights and BatchNorm statistics of structured inputs, and those: 32, of large ones 8."""
    torch.manual_seed(0)
    source, _, model = name.rpartition(":")
    side = 224 if model in FULL_SIZE else 64
    x = pictures(side, 8 if model in FULL_SIZE else 32)
    if source == "torchvision":
        options = {"aux_logits": False, "init_weights": True} if model == "googlenet" else {}
        made: nn.Module = torchvision.models.get_model(model, num_classes=CLASSES, **options)
    elif source == "timm":
        import timm

        made = timm.create_model(model, num_classes=CLASSES)
    else:
        mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
        own: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
            "audio CNN": (audio, pictures(64)[:, :1].flatten(2)),
            "MLP": (lambda: mlp, pictures(8)),
            "segmentation": (Segmentation, x),
        }
        maker, x = own[name]
        made = maker()
    for module in made.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
        elif isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.05)  # a head that starts at zero says nothing
    with torch.no_grad():
        made.train()(x)
    return made.eval(), x


def pictures(side: int, n: int = 32) -> Tensor:
    """Smooth random pictures with a little noise."""
    generator = torch.Generator().manual_seed(1)
    smooth = interpolate(torch.randn(n, 3, 4, 4, generator=generator), (side, side), mode="bilinear")
    return smooth + 0.1 * torch.randn(n, 3, side, side, generator=generator)


@dataclass
class Found:
    """What was seen in one network."""

    name: str
    layers: int
    left_float: int
    """Layers that could not be swapped."""
    macs: int
    float_macs_outside: int
    agreement: float
    """Same label as the float model at W8A8, all layers."""
    relative_error: float
    """Of the logits at W8A8, their mean over the pictures left out."""
    float_equal: bool
    subnet_equal: bool
    macs_equal: bool
    survives: bool
    """Copy, save and load, four threads."""
    onnx: str


@torch.no_grad()
def examine(name: str) -> Found:
    """Quantizes a network and looks at everything that must hold."""
    model, x = make(name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        supernet = sq.quantize(model, x, [(4, 4), (8, 8)], keep_float=())
    left = [str(w.message).split()[0] for w in said if "layers stay float" in str(w.message)]
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
    centred = reference - reference.mean(0)
    return Found(
        name,
        len(supernet.space.layers),
        int(left[0]) if left else 0,
        cost["macs"],
        supernet.space.outline.other_macs,
        float((y.argmax(1) == reference.argmax(1)).float().mean()),
        float((y - reference).norm() / centred.norm()),
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
        except Exception as error:  # noqa: BLE001 - torch's exporter fails in ways of its own
            return f"no: {type(error).__name__}"
    return "yes"
