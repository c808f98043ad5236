"""Loads search spaces by name or file and builds their supernets. Imports torch only to build a network."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spos_quant.errors import RunError, SpaceError, near
from spos_quant.run_dir import cache_dir, write_text
from spos_quant.space.resolve import resolve
from spos_quant.space.search_space import SearchSpace
from spos_quant.space.shapes import FORMAT, NetworkShapes
from spos_quant.space.spec import SpaceSpec, parse_spec, read_spec
from spos_quant.streams import Stream, torch_seed

if TYPE_CHECKING:
    from torch.nn import Module

    from spos_quant.supernet.network import Backbone
    from spos_quant.supernet.supernet import Supernet

PUBLISHED = ("torchvision", "timm")
"""Sources of published models. For example, `torchvision:resnet18` names a backbone and a search space of bits."""


def _spaces() -> Any:
    return files("search_spaces")


@cache
def builtin_spaces() -> tuple[str, ...]:
    """Names of the built-in search spaces."""
    return tuple(sorted(item.name[:-5] for item in _spaces().iterdir() if item.name.endswith(".yaml")))


def load_spec(name: str | Path) -> SpaceSpec:
    """Loads the specification of a built-in search space or of a YAML file.

    Raises:
        SpaceError: `name` is neither a built-in space nor a file, or the file is not a valid search space.
    """
    text = str(name)
    if text.partition(":")[0] in PUBLISHED and not Path(text).exists():
        return _published_spec(text)
    if text in builtin_spaces():
        raw = yaml.safe_load((_spaces() / f"{text}.yaml").read_text("utf-8"))
        return parse_spec(raw, f"{text}.yaml")
    path = Path(text)
    if path.is_file():
        return read_spec(path)
    what = "is a directory, not a YAML file" if path.is_dir() else "is neither a built-in search space nor a YAML file"
    raise SpaceError(f"{text!r} {what}{near(text, builtin_spaces())}")


def _published_spec(name: str) -> SpaceSpec:
    """The search space of a published model without a YAML file: the bits of every layer are searched."""
    return parse_spec(
        {
            "name": re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:64],
            "backbone": name,
            "input": [3, 224, 224],
            "classes": 1000,
            "axes": {"bits": [[2, 2], [4, 4], [8, 8]]},
            "bits_per": "layer",
        },
        name,
    )


def load_space(name: str | Path) -> SearchSpace:
    """Loads the search space of a built-in name or a YAML file. Needs no torch if network shapes are stored or cached.

    Raises:
        SpaceError: The space does not exist or cannot be built.
        ConfigError: The backbone or an operator is unknown.
    """
    return space_of(load_spec(name))


def space_of(spec: SpaceSpec) -> SearchSpace:
    """The search space of a validated specification."""
    return resolve(spec, network_shapes_of(spec))


def structure_hash(spec: SpaceSpec) -> str:
    """Hashes all that the network shapes depend on: format, structure of the space, and package version.

    The package is torchvision or timm, if the backbone is one of its models.
    """
    source = spec.backbone.partition(":")[0]
    published = ":" in spec.backbone and source in PUBLISHED and find_spec(source)
    text = json.dumps([FORMAT, spec.structure(), *([version(source)] if published else [])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def network_shapes_of(spec: SpaceSpec) -> NetworkShapes:
    """The network shapes of a space: stored for built-in spaces, else cached, else measured on the meta device."""
    stored = _spaces() / "tables" / f"{spec.name}.json"
    cached = cache_dir("network_shapes") / f"{structure_hash(spec)}.json"
    for source in (stored, cached):
        try:
            raw = json.loads(source.read_text("utf-8"))
            if raw["structure"] == structure_hash(spec):
                return NetworkShapes.from_json(raw)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # absent, damaged or of another version
    network_shapes = measure(spec)
    with suppress(RunError):  # the cache is optional: if it cannot be written, shapes are measured again next time
        write_text(cached, network_shapes_json(spec, network_shapes))
    return network_shapes


def network_shapes_json(spec: SpaceSpec, network_shapes: NetworkShapes) -> str:
    """Serializes network shapes as they are stored, with the structure hash."""
    return json.dumps({"structure": structure_hash(spec), **network_shapes.to_json()}, separators=(",", ":")) + "\n"


def measure(spec: SpaceSpec) -> NetworkShapes:
    """Measures the network shapes on the network itself. Imports torch."""
    from spos_quant.supernet.dry_run import measure_shapes

    return measure_shapes(spec, _backbone(spec))


def _backbone(spec: SpaceSpec) -> Backbone:
    """A registered backbone or a published model. Raises `ConfigError` if the name is unknown."""
    from spos_quant.backbones.registry import backbones
    from spos_quant.convert.zoo import published

    return published(spec.backbone) if ":" in spec.backbone else backbones[spec.backbone]


def build(space: SearchSpace, *, seed: int = 0) -> Supernet:
    """Builds the supernet of a search space. Its weights are random, or loaded from the space's `weights` file.

    Raises:
        ModelError: The weights file cannot be read or does not match the network.
    """
    import torch

    from spos_quant.supernet.dry_run import build_body
    from spos_quant.supernet.supernet import Supernet
    from spos_quant.supernet.weights import load_float_weights

    # Construction draws random numbers. It must not change the state of the user's generators; `torch.manual_seed`
    # would also seed the CUDA generators.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(torch_seed(Stream.CONSTRUCTION, seed))
        body, builder = build_body(space.spec, _backbone(space.spec), device="cpu")
        supernet = Supernet(space, body)
        if not builder.own_start:
            supernet.reset_parameters(seed)
    if space.spec.weights is not None:
        load_float_weights(supernet, Path(space.spec.weights))
    return supernet


def build_plain(space: SearchSpace) -> Module:
    """The plain model of a search space with one candidate per axis. The caller must load its weights."""
    from spos_quant.supernet.attach import plain_model

    return plain_model(space, _backbone(space.spec))
