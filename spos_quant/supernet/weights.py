"""Saving and loading weights, by name and with `copy_`, from files that load without running code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from spos_quant.errors import ModelError, RunError, near
from spos_quant.run_dir import check, store
from spos_quant.supernet.network import named_blocks, per_bits, plain_name

if TYPE_CHECKING:
    from spos_quant.supernet.supernet import Supernet

_METADATA_KEY = "spos_quant"
"""The key of the metadata in a file's header."""


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers; a shared tensor appears once, under its first name."""
    yield from module.named_parameters()
    persistent = set(module.state_dict(keep_vars=True))
    for name, buffer in module.named_buffers():
        if name in persistent:
            yield name, buffer


def save_weights(module: nn.Module, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes all tensors of a module as safetensors, atomically, with their checksum.

    Args:
        module: A model or a supernet.
        path: The file.
        metadata: Plain values for the header of the file; `read_weights_metadata` returns them.
    """
    save_tensors(dict(named_tensors(module)), path, metadata)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes named tensors as `save_weights` does."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    store(path, save(plain, metadata={_METADATA_KEY: json.dumps(dict(metadata or {}))}))


def read_weights_metadata(path: Path) -> dict[str, Any]:
    """The metadata that `save_weights` wrote into a file's header. Raises `RunError` if the file is damaged."""
    check(path)
    try:
        with safe_open(path, framework="np") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{path}: is damaged ({error}); delete it and repeat the command to make it anew") from None
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a PyTorch file read with `weights_only`.

    Raises:
        ModelError: the file is missing, truncated, of another format, or needs code to be run, which is not run.
        RunError: the file is a damaged artifact of a run.
    """
    if not path.is_file():
        raise ModelError(f"weights file {path} {'is no file' if path.exists() else 'does not exist'}")
    check(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ModelError(f"weights file {path} is damaged or no safetensors file: {error}") from None
    except Exception as error:  # noqa: BLE001 - torch.load raises exceptions of any type for damaged bytes
        raise ModelError(
            f"weights file {path} is damaged, or cannot be read without running code, which was not run "
            f"({type(error).__name__}); expected safetensors, or a state dict saved with torch.save"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"weights file {path} holds no state dict (a mapping of names to tensors)")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise ModelError(f"weights file {path}: {str(name)!r} is no dense tensor of plain numbers; save it as one")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


@torch.no_grad()
def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies tensors into a module of the same structure.

    Raises:
        ModelError: a name is missing or unknown, or a shape differs.
    """
    own = dict(named_tensors(module))
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        name = (missing or unknown)[0]
        raise ModelError(
            f"{where} does not fit this model: {len(missing)} tensors are missing, {len(unknown)} are unknown, "
            f"first {name!r}{near(name, (unknown or tensors) if missing else own)}"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ModelError(
                f"{where}: {name!r} has shape {tuple(tensors[name].shape)}, this model needs {tuple(tensor.shape)}"
            )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


@torch.no_grad()
def load_float_weights(supernet: Supernet, path: Path) -> None:
    """Initializes a supernet from float weights of its backbone, by plain names; wider layers keep extra channels.

    Operators other than the backbone's own have no float counterpart and keep their initial weights.

    Raises:
        ModelError: a weight of the backbone is missing in the file, or has another shape.
    """
    tensors = read_weights(path)
    blocks = named_blocks(supernet.body)
    own_ops = dict(zip(blocks, supernet.space.network_shapes.reference_ops, strict=True))
    for layer in supernet.space.network_shapes.reference:
        weight, shape = tensors.get(f"{layer.name}.weight"), layer.shapes[0]
        if weight is not None and (weight.numel(), *weight.shape[:1]) != (shape.weights, shape.out_channels):
            raise ModelError(
                f"{path}: {layer.name + '.weight'!r} has shape {tuple(weight.shape)}, the backbone has "
                f"{shape.weights} weights for {shape.out_channels} channels there"
            )
    used = set()
    for name, tensor in named_tensors(supernet.body):
        if per_bits(name) or _other_operator(name, own_ops):
            continue
        plain = plain_name(name)
        if plain not in tensors:
            raise ModelError(f"{path} misses {plain!r}{near(plain, tensors)}")
        if not tensors[plain].isfinite().all():
            raise ModelError(f"{path}: {plain!r} holds NaN or infinity; start from other weights")
        copy_overlap(tensor, tensors[plain], f"{path}: {plain!r}")
        used.add(plain)
    without_own_op = tuple(f"{name}." for name, block in blocks.items() if own_ops[name] not in block.op_names)
    unused = (name for name in tensors if name not in used and not name.startswith(without_own_op))
    extra = [name for name in unused if not name.endswith("num_batches_tracked")]
    if extra:
        raise ModelError(f"{path} holds {len(extra)} tensors that the backbone has not, first {extra[0]!r}")
    supernet.start()


def _other_operator(name: str, own_ops: Mapping[str, str]) -> bool:
    block, found, tail = name.partition(".candidates.")
    return bool(found) and tail.partition(".")[0] != own_ops[block]


@torch.no_grad()
def inherit(target: nn.Module, tensors: Mapping[str, Tensor]) -> set[str]:
    """Copies what two supernets of one backbone share, by name and leading channels; returns the names not copied."""
    missing = set()
    for name, tensor in named_tensors(target):
        if name in tensors and _same_kernel(tensor, tensors[name]):
            copy_overlap(tensor, tensors[name], name)
        else:
            missing.add(name)
    return missing


def copy_overlap(target: Tensor, source: Tensor, what: str) -> None:
    """Copies the leading channels that both tensors have. Raises `ModelError` if more than the channels differ."""
    if not _same_kernel(target, source):
        raise ModelError(f"{what} has shape {tuple(source.shape)}, this model needs {tuple(target.shape)}")
    part = tuple(slice(0, min(a, b)) for a, b in zip(target.shape, source.shape, strict=True))
    target[part].copy_(source[part])


def _same_kernel(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ at most in their channels, the first two dimensions."""
    return a.dim() == b.dim() and a.shape[2:] == b.shape[2:]
