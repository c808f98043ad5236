"""Search spaces that together use every feature, and supernets of them with no tensor at its initial value."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.backbones.build import build, load_space, space_of
from spos_quant.quant.static import read_bits
from spos_quant.quant.switch import InputQuantizer
from spos_quant.space.search_space import Architecture, LayerSlot, SearchSpace
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.supernet import Supernet

_SPECS: dict[str, dict[str, Any]] = {
    # Separate axes of weight and activation bits per layer, with float; first (signed) and last layer quantized; ties.
    "separate": {
        "backbone": "digits-resnet",
        "input": [1, 8, 8],
        "classes": 5,
        "axes": {
            "op": ["conv3x3", "bottleneck", "sepconv3x3"],
            "width": [0.5, 1.0],
            "weight_bits": [1, 3, "float"],
            "act_bits": [1, 2, 5, "float"],
        },
        "bits_per": "layer",
        "keep_float": [],
        "groups": [["layer1.0.conv2", "layer2.1.conv2"]],
    },
    # A shortcut kept float, with operators that have bits of their own.
    "float shortcut": {
        "backbone": "digits-resnet",
        "input": [2, 8, 8],
        "classes": 3,
        "axes": {"op": ["skip", "sepconv3x3", "conv5x5"], "width": [1.5, 0.25], "bits": [[2, 2], [4, 4]]},
        "bits_per": "layer",
        "keep_float": ["first", "*.downsample.0"],
        "overrides": {"*.depthwise1": {"bits": [[1, 3], [8, 6], [7, "float"]]}, "layer1.1": {"op": ["conv5x5"]}},
        "quantizer": "absmax+pact",
    },
    # Shortcuts without parameters, one operator, three stages.
    "option a": {
        "backbone": "resnet20",
        "input": [3, 8, 8],
        "classes": 10,
        "axes": {"width": [0.5, 1.0, 1.5], "bits": [[1, 2], [2, 4], [5, 6]]},
    },
    # No bits at all.
    "float": {
        "backbone": "digits-resnet",
        "input": [1, 8, 8],
        "classes": 10,
        "axes": {"op": ["conv3x3", "skip"], "width": [0.5, 1.0]},
    },
}
KINDS = ("op", "width", "bits", "weight_bits", "act_bits")
NAMES = ("digits-mixed", *_SPECS)


@cache
def space(name: str) -> SearchSpace:
    if name not in _SPECS:
        return load_space(name)
    return space_of(parse_spec({"name": name.replace(" ", "-"), **_SPECS[name]}, name))


def supernet(name: str, seed: int = 0) -> Supernet:
    """With BatchNorm statistics, affine parameters and clips that all differ from their initial values.

    Building thousands of modules takes a second, so each space and seed has one supernet, which every call resets.
    """
    made, tensors, start = _supernet(name, seed)
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.grad = None
            tensor.copy_(start[key])
    made.activate((0,) * len(made.space.axes))
    return made.train()


@cache
def _supernet(name: str, seed: int) -> tuple[Supernet, dict[str, Tensor], dict[str, Tensor]]:
    made = build(space(name), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for key, tensor in made.state_dict().items():
            if "scaling_impl" in key:
                tensor.copy_(torch.rand((), generator=generator) + 0.6)
            elif tensor.dim() == 1:
                drawn = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(drawn - 0.5 if key.endswith(("bias", "running_mean")) else drawn + 0.5)
    tensors = made.state_dict(keep_vars=True)
    return made, tensors, {key: tensor.detach().clone() for key, tensor in tensors.items()}


def images(made: Supernet | SearchSpace, n: int = 4, seed: int = 0) -> Tensor:
    spec = (made.space if isinstance(made, Supernet) else made).spec
    return torch.randn(n, *spec.input, generator=torch.Generator().manual_seed(seed))


def every_candidate(of: SearchSpace) -> list[Architecture]:
    """Architectures that together pass `check_coverage`, with different candidates in every block."""
    size = {kind: max([1, *(len(x.candidates) for x in of.axes if x.kind == kind)]) for kind in KINDS}
    found = []
    # Every operator of a block meets every candidate of the block's other axes.
    for turn in range(size["op"] * max(size.values())):
        indices = []
        for axis in of.axes:
            block = next((i for i, b in enumerate(of.blocks) if axis.name.startswith(f"{b.name}.")), 0)
            inner = turn // size["op"]
            picked = {"op": turn - block, "width": inner, "act_bits": inner}.get(axis.kind, inner + block)
            indices.append(picked % len(axis.candidates))
        found.append(of.canonical(indices))
    return list(dict.fromkeys(found))


def check_coverage(of: SearchSpace, architectures: list[Architecture]) -> None:
    """Every candidate of every axis where it matters, every shape of every layer, every bit pair of every operator."""
    seen: set[tuple[object, ...]] = set()
    wanted: set[tuple[object, ...]] = {(x.name, i) for x in of.axes for i in range(len(x.candidates))}
    for a in architectures:
        seen |= {(axis.name, a[i]) for i, axis in enumerate(of.axes) if of.relevant(a)[i]}
        for layer, shape in of.active_layers(a):
            seen.add((layer.name, layer.op, shape))
            seen.add((_operator(of, layer), layer.weight.value(a), layer.act.value(a)))
    for layer in of.layers:
        wanted |= {(layer.name, layer.op, shape) for shape in layer.shapes}
        if layer.op is not None:
            same = layer.weight.axis == layer.act.axis
            pairs = (
                zip(layer.weight.values, layer.act.values, strict=True)
                if same
                else product(layer.weight.values, layer.act.values)
            )
            wanted |= {(_operator(of, layer), *pair) for pair in pairs}
    assert wanted <= seen, sorted(map(str, wanted - seen))


def _operator(of: SearchSpace, layer: LayerSlot) -> str | None:
    return None if layer.block is None or layer.op is None else str(of.blocks[layer.block].op.values[layer.op])


class Watched:
    """A supernet with its tensors and layers listed once, because walking its thousands of modules is slow."""

    def __init__(self, made: Supernet) -> None:
        self.made = made
        self.parameters = dict(made.named_parameters())
        self.all_names = dict(made.body.named_parameters(remove_duplicate=False))
        self.statistics = {n: b for n, b in made.named_buffers() if n.endswith(("running_mean", "running_var"))}

    def clear_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def name(self, plain: str) -> str:
        """The name under `body` of the subnet parameter `plain` of the active path."""
        for block in self.made.space.blocks:
            rest = plain.removeprefix(f"{block.name}.")
            if rest != plain and not rest.startswith("downsample."):
                return f"{block.name}.candidates.{block.op.value(self.made.architecture)}.{rest}"
        return plain

    def matching(self, subnet: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """Every parameter of a subnet with the supernet parameter of which it is the leading slice."""
        for name, parameter in subnet.named_parameters(remove_duplicate=False):
            layer, is_clip, _ = name.partition(".input_quant.")
            if not is_clip:
                yield name, parameter, self.all_names[self.name(name)]
                continue
            bits = read_bits(subnet.get_submodule(layer))[1]
            path = self.name(layer)
            quantizer = self.made.body.get_submodule(path).input_quant
            assert isinstance(quantizer, InputQuantizer)
            assert bits is not None
            yield name, parameter, quantizer.clip(bits)
