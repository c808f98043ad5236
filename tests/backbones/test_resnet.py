"""The built-in networks compared with torchvision's and a reference CIFAR ResNet, and the paper's BitOps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spos_quant.backbones.build import build, load_space, measure, space_of
from spos_quant.backbones.registry import backbones
from spos_quant.backbones.resnet import ZeroPadShortcut
from spos_quant.cost.rows import config_rows, total
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError, ModelError
from spos_quant.space.spec import SpaceSpec, parse_spec
from spos_quant.supernet.weights import load_float_weights


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.inputs, self.outputs = inputs, outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.inputs != self.outputs:
            quarter = torch.zeros_like(y)[:, : self.outputs // 4]
            x = torch.cat([quarter, x[:, :, ::2, ::2], quarter], 1)
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """Sec. 4.2 of arXiv 1512.03385, with the module names of common pretrained weights."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(n - 1)])
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        y: Tensor = self.linear(F.adaptive_avg_pool2d(h, 1).flatten(1))
        return y


def reference(name: str, classes: int = 10) -> nn.Module:
    published = {
        "resnet18": "resnet18",
        "resnet34": "resnet34",
        "resnet50": "resnet50",
        "mobilenetv2": "mobilenet_v2",
        "mobilenetv3-large": "mobilenet_v3_large",
        "mobilenetv3-small": "mobilenet_v3_small",
    }
    if name in published:
        made: nn.Module = getattr(torchvision.models, published[name])(num_classes=classes)
        return made
    if name == "mobilenetv2-cifar":
        return cifar_mobilenet(classes)
    return CifarResNet(int(name.removeprefix("resnet")))


def cifar_mobilenet(classes: int) -> nn.Module:
    """torchvision's MobileNetV2 at width 0.5, with the first two strides of 2 removed and half the last channels."""
    stages = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    made = torchvision.models.MobileNetV2(classes, 0.5, stages)
    made.features[0][0].stride = (1, 1)
    made.features[-1] = torchvision.ops.Conv2dNormActivation(160, 640, 1, activation_layer=nn.ReLU6)
    made.classifier[1] = nn.Linear(640, classes)
    return made


def spec_with_settings(name: str, size: int, classes: int = 10, **more: Any) -> SpaceSpec:
    raw = {"name": name, "backbone": name, "input": [3, size, size], "classes": classes, **more}
    return parse_spec(raw, name)


def randomize(model: nn.Module) -> nn.Module:
    """Gives BatchNorm random affine parameters and the statistics of random images, so that errors are visible."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + (0.5 if name.endswith(("weight", "var")) else -0.5))
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = None
        model.train()(torch.randn(16, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet20", "mobilenetv2", "mobilenetv3-small"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "mobilenetv3-large")),
    ],
)
def test_float_weights_and_outputs_equal_the_published_network(name: str, tmp_path: Path) -> None:
    theirs = randomize(reference(name))
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    axes = {"width": [0.5, 1.0, 1.5], "bits": [[2, 4], [8, 8]]}
    space = space_of(spec_with_settings(name, 32, axes=axes, weights=str(tmp_path / "w.pt")))
    made = build(space).eval()
    x = torch.randn(4, 3, 32, 32)
    expected = theirs(x)
    assert expected.std(0).mean() > 1e-3

    made.activate(space.canonical([axis.candidates.index(1.0) if axis.kind == "width" else 0 for axis in space.axes]))
    quantized = made(x)
    made.activate_float()
    torch.testing.assert_close(made(x), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(quantized, expected, atol=1e-2)

    subnet = made.subnet(made.architecture)
    own = {n: t for n, t in subnet.state_dict().items() if "input_quant" not in n}
    assert {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in own.items() if not n.endswith("tracked"))
    assert sum("input_quant" in n for n in subnet.state_dict()) == sum(
        slot.quantized for slot, _ in space.active_layers(made.architecture)
    )
    # Without candidates, the subnet is a plain float network with the same parameter names.
    plain = build(space_of(spec_with_settings(name, 32, weights=str(tmp_path / "w.pt")))).subnet(()).eval()
    assert list(plain.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(plain(x), expected, rtol=1e-5, atol=1e-5)


def test_file_of_a_deeper_network_is_refused(tmp_path: Path) -> None:
    torch.save(reference("resnet32").state_dict(), tmp_path / "w.pt")
    made = build(space_of(spec_with_settings("resnet20", 8)))
    with pytest.raises(ModelError, match=r"the backbone has not, first 'layer1.3.conv1.weight'"):
        load_float_weights(made, tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "size", "classes", "macs"),
    [
        ("resnet18", 224, 1000, 1_814_073_344),
        ("resnet34", 224, 1000, 3_663_761_408),
        # Stem, 3 stages of 2n convolutions (2 of them with half the input channels), classifier.
        ("resnet20", 32, 10, 1024 * 432 + (18 - 1) * 2_359_296 + 640),
        ("resnet32", 32, 10, 1024 * 432 + (30 - 1) * 2_359_296 + 640),
        ("resnet56", 32, 10, 1024 * 432 + (54 - 1) * 2_359_296 + 640),
        ("resnet50", 224, 1000, 4_089_184_256),
        ("mobilenetv2", 224, 1000, 300_774_272),
        ("mobilenetv2-cifar", 32, 10, 26_324_224),
        ("mobilenetv3-large", 224, 1000, 216_589_760),
        ("mobilenetv3-small", 224, 1000, 56_510_400),
    ],
)
def test_multiply_adds_and_parameters(name: str, size: int, classes: int, macs: int) -> None:
    """Equal to published numbers or a formula, and to torch's counter on the reference network."""
    network_shapes = measure(spec_with_settings(name, size, classes))
    theirs = reference(name, classes).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        theirs(torch.empty(1, 3, size, size, device="meta"))
    ours = sum(layer.shapes[0].macs for layer in network_shapes.reference)
    assert ours == counter.get_total_flops() // 2 == macs
    layers = {n: m for n, m in theirs.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    found = {x.name: (x.shapes[0].weights, x.shapes[0].biases) for x in network_shapes.reference}
    assert found == {n: (m.weight.numel(), 0 if m.bias is None else len(m.bias)) for n, m in layers.items()}
    assert {x.name for x in network_shapes.layers} == set(found)
    assert network_shapes.other_macs == 0


@pytest.mark.parametrize(
    ("name", "gibibitops"),
    [("resnet18-mixed", (6.316, 14.212, 25.266)), ("resnet34-mixed", (13.207, 29.716, 52.828))],
)
def test_bitops_of_the_paper(name: str, gibibitops: tuple[float, ...]) -> None:
    space = load_space(name)
    for bits, expected in zip((2, 3, 4), gibibitops, strict=True):
        found = total(config_rows(space, space.uniform_config(bits, bits)), "bitops") / 2**30
        assert found == pytest.approx(expected, abs=5e-4)
    assert space.size == 18 ** len(space.blocks)


@pytest.mark.parametrize("name", ["resnet18-mixed", "resnet20-mixed"])
def test_cost_table_equals_the_count_of_the_subnet(name: str) -> None:
    """Compares with torch's counter on random subnets, at full resolution on the meta device."""
    space = load_space(name)
    # Bits do not change shapes. A space of widths only is the same network and faster to build.
    raw = space.spec.model_dump(mode="json") | {"axes": {"width": [0.5, 1.0, 1.5]}}
    made = build(space_of(parse_spec(raw, "x")))
    found = set()
    for a in space.sample_many(np.random.default_rng(0), 2):
        subnet = made.subnet([block.width.index(a) for block in space.blocks]).to("meta").eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            subnet(torch.empty(1, *space.spec.input, device="meta"))
        found.add(counter.get_total_flops() // 2)
        assert CostTable(space).total(a, "macs") in found
        assert CostTable(space).total(a, "params") == sum(
            p.numel() for m in subnet.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) for p in m.parameters()
        )
    assert len(found) == 2


def test_digits_network_by_hand() -> None:
    """The first stage has 8 x 8 pixels, the second 4 x 4."""
    network_shapes = load_space("digits-mixed").network_shapes
    expected = {"conv1": 64 * 9 * 16, "fc": 32 * 10, "layer2.0.downsample.0": 16 * 16 * 32}
    for block in ("layer1.0", "layer1.1"):
        expected |= {f"{block}.conv1": 64 * 9 * 256, f"{block}.conv2": 64 * 9 * 256}
    expected |= dict.fromkeys(("layer2.0.conv2", "layer2.1.conv1", "layer2.1.conv2"), 16 * 9 * 1024)
    expected["layer2.0.conv1"] = 16 * 9 * 512
    assert {x.name: x.shapes[0].macs for x in network_shapes.reference} == expected


@pytest.mark.parametrize(("channels", "size"), [(16, 8), (16, 7), (4, 5)])
def test_zero_padded_shortcut(channels: int, size: int) -> None:
    x = torch.randn(2, channels, size, size)
    y = ZeroPadShortcut(channels, 2)(x)
    half = channels // 2
    assert y.shape == (2, 2 * channels, -(-size // 2), -(-size // 2))
    assert torch.equal(y[:, half : half + channels], x[:, :, ::2, ::2])
    assert not y[:, :half].any()
    assert not y[:, half + channels :].any()


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("name", ["digits-resnet", "resnet20", "resnet18"])
def test_any_image_size_fits(name: str, size: int) -> None:
    raw = {"name": "x", "backbone": name, "input": [2, size, size + 1], "classes": 7}
    network_shapes = measure(parse_spec(raw, "x"))
    assert network_shapes.layers[-1].shapes[0].out_channels == 7
    assert network_shapes.layers[0].shapes[0].weights % 2 == 0


def test_images_of_other_channels_do_not_run() -> None:
    made = build(space_of(spec_with_settings("resnet20", 8)))
    with pytest.raises(RuntimeError, match="channels"):
        made(torch.randn(1, 1, 8, 8))


def test_unknown_backbone() -> None:
    with pytest.raises(ConfigError, match="unknown backbone 'resnet19'; did you mean 'resnet18'"):
        measure(spec_with_settings("resnet19", 8))
    assert set(backbones) >= {"resnet18", "resnet34", "resnet20", "resnet32", "resnet56", "digits-resnet"}
