"""Small synthetic search spaces, without torch, whose architectures can be enumerated."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from scipy.stats import chisquare

from spos_quant.space.resolve import block_axes, resolve
from spos_quant.space.search_space import SearchSpace
from spos_quant.space.shapes import BlockShapes, LayerShape, LayerShapes, NetworkShapes
from spos_quant.space.spec import parse_spec

WIDTHS = (0.5, 1.0)
OPS = ("conv", "wide", "skip")


def layer(name, block, op, macs, *, reads=None, kind="Conv2d"):
    """A layer; `macs` has one number per width (the last is the backbone's own), or is one number."""
    macs = macs if isinstance(macs, tuple) else (macs,)
    shapes = tuple(LayerShape(m, max(1, m // 4), 0, 9 - len(macs) + i) for i, m in enumerate(macs))
    return LayerShapes(name, kind, block, op, reads or name, block, shapes)


def toy_shapes(spec, blocks=2, scale=1):
    """Shapes of a stem, blocks of up to three operators (`skip` has no layers), a shortcut in b1, and a head."""
    layers, reference, made = [layer("stem", None, None, 100 * scale)], [layer("stem", None, None, 100 * scale)], []
    for i in range(blocks):
        b, s = f"b{i}", scale * (i + 1)
        axes = block_axes(spec, b)
        ops, widths = axes.op or ("conv",), axes.width or (1.0,)
        made.append(BlockShapes(b, ops, widths, b))
        reads = None
        if i == 1:
            reads = f"{b}.short"
            layers.append(layer(reads, b, None, 24 * s))
            reference.append(layer(reads, b, None, 24 * s))

        def wide(macs, widths=widths):
            return tuple(int(macs * w) for w in widths)

        if "conv" in ops:
            k = ops.index("conv")
            layers += [layer(f"{b}.c1", b, k, wide(96 * s), reads=reads), layer(f"{b}.c2", b, k, wide(120 * s))]
        if "wide" in ops:
            k = ops.index("wide")
            layers += [layer(f"{b}.c1", b, k, wide(144 * s), reads=reads), layer(f"{b}.c3", b, k, 36 * s)]
        reference += [layer(f"{b}.c1", b, None, 96 * s, reads=reads), layer(f"{b}.c2", b, None, 120 * s)]
    layers.append(layer("head", None, None, 40 * scale, kind="Linear"))
    reference.append(layer("head", None, None, 40 * scale, kind="Linear"))
    return NetworkShapes(tuple(made), tuple(layers), ("conv",) * blocks, tuple(reference))


def toy_spec(**changes):
    """The specification of a toy space; keyword arguments replace keys of its YAML."""
    raw = {
        "name": "toy",
        "backbone": "toy",
        "input": [3, 8, 8],
        "classes": 4,
        "axes": {"op": list(OPS), "width": list(WIDTHS), "bits": [[2, 2], [2, 4], [4, 4]]},
    }
    return parse_spec(raw | changes, "toy.yaml")


def toy_space(blocks=2, scale=1, **changes) -> SearchSpace:
    """A toy search space."""
    spec = toy_spec(**changes)
    return resolve(spec, toy_shapes(spec, blocks, scale))


VARIANTS = {
    "block": {},
    "layer": {"bits_per": "layer"},
    "two axes": {"axes": {"op": list(OPS), "width": [0.5, 1.0], "weight_bits": [2, 4], "act_bits": [2, 3, None]}},
    "two axes per layer": {
        "bits_per": "layer",
        "axes": {"op": ["conv", "skip"], "width": [0.5, 1.0], "weight_bits": [1, 8], "act_bits": [2, 4]},
    },
    "grouped": {"bits_per": "layer", "groups": [["b0.c1", "b1.c2"]]},
    "overrides": {"overrides": {"b1": {"op": ["conv"], "bits": [[8, 8]]}, "b0.c2": {"bits": [[1, 1], [3, 3]]}}},
    "all quantized": {"keep_float": []},
    "full precision": {"axes": {"op": list(OPS), "width": [0.5, 1.0]}},
}


def with_costs(space: SearchSpace, numbers) -> SearchSpace:
    """The same space, with MACs and weights of the layers taken from the iterator `numbers`."""

    def changed(one):
        return replace(one, shapes=tuple(replace(s, macs=next(numbers), weights=next(numbers)) for s in one.shapes))

    layers = tuple(changed(one) for one in space.network_shapes.layers)
    return resolve(space.spec, replace(space.network_shapes, layers=layers))


def raw_indices(space: SearchSpace):
    """Every combination of candidates, canonical or not."""
    return product(*(range(len(a.candidates)) for a in space.axes))


_ENUMERATED: dict[int, tuple[SearchSpace, frozenset]] = {}


def enumerate_space(space: SearchSpace):
    """All canonical architectures, by brute force over the product of all axes."""
    if id(space) not in _ENUMERATED:
        _ENUMERATED[id(space)] = (space, frozenset(map(space.canonical, raw_indices(space))))
    return _ENUMERATED[id(space)][1]


def network(space: SearchSpace, indices):
    """Operators, layers and bits of the network of these indices, regardless of which axes are relevant."""
    ops = tuple(block.op.value(indices) for block in space.blocks)
    layers = []
    for one, shape in space.active_layers(indices):
        bits = (one.weight.value(indices), one.act.value(indices)) if one.quantized else None
        layers.append((one.name, shape, bits))
    return ops, tuple(layers)


def assert_uniform(draws, expected):
    """Draws are uniform over `expected`, by a chi-square test that fails by chance once in a million runs."""
    counts = dict.fromkeys(expected, 0)
    for a in draws:
        counts[a] += 1  # a KeyError means that a draw is not in `expected`
    assert min(counts.values()) > 0
    if len(counts) > 1:
        assert chisquare(list(counts.values())).pvalue > 1e-6
