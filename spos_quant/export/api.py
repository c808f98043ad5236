"""`sq.export_onnx`: writes a model to a file and checks that the file gives the outputs of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.errors import ExportError
from spos_quant.export.onnx_file import bytes_by_type, finish, measure_onnx, read_metadata
from spos_quant.export.runtime import LogitFunction, OnnxModel, compare
from spos_quant.quant.onnx import export_float, export_qcdq
from spos_quant.quant.static import is_quant_layer, read_bits
from spos_quant.registry import Registry
from spos_quant.run_dir import write_bytes

MIN_AGREEMENT = 0.99
"""Smallest accepted share of equal labels. Rounding at a tie may flip a label; a wrong file flips many."""

Writer = Callable[[nn.Module, Tensor, Path, Mapping[str, Any]], None]
"""`(model, examples, path, metadata) -> None`; writes the file or raises `ExportError`."""


@dataclass(frozen=True)
class Format:
    """How to write a model to a file, and how to run and measure that file without the model."""

    write: Writer
    file: str
    """Name of the file in the folder of a result."""
    open: Callable[[Path], LogitFunction] = OnnxModel
    """Loads the file as a callable from images to logits; raises `ExportError`."""
    measure: Callable[[Path], dict[str, Any]] = measure_onnx
    """Measures the cost from the contents of the file; has the keys of `spos-quant cost --json`."""
    sizes: Callable[[Path], dict[str, int]] = bytes_by_type
    """Bytes of the file by data type."""
    metadata: Callable[[Path], dict[str, Any]] = read_metadata
    """Reads the metadata in the file."""
    hint: str = ""
    """End of the error message if the outputs of the file differ from those of the model."""


exporters: Registry[Format] = Registry(
    "export format",
    builtin_modules=tuple(f"spos_quant.export.{name}" for name in ("api", "packed", "qonnx", "integer.formats")),
)


def write_onnx(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes float operators, for full-precision models."""
    for name, layer in model.named_modules():
        if read_bits(layer) != (None, None):
            raise ExportError(f"layer {name!r} is quantized; `onnx` holds float models only: use onnx-qcdq")
    export_float(model, example[:1], path)
    finish(path, metadata)


def write_onnx_qcdq(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes float operators with quantize-clip-dequantize (QCDQ) chains, which any ONNX runtime executes."""
    require_quantized_layers(model)
    midrise_weights, binary_inputs = export_qcdq(model, example[:1], path)
    finish(path, metadata, midrise_weights, binary_inputs)


def require_quantized_layers(model: nn.Module) -> None:
    """Raises `ExportError` if the model has no Brevitas layer."""
    if not any(is_quant_layer(layer) for layer in model.modules()):
        raise ExportError("the model has no quantized layer; use --format onnx")


exporters.register("onnx")(Format(write_onnx, "model.onnx"))
exporters.register("onnx-qcdq")(Format(write_onnx_qcdq, "model-qcdq.onnx"))


def export_onnx(
    model: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    format: str = "onnx-qcdq",
    metadata: Mapping[str, Any] | None = None,
    check: Iterable[tuple[Tensor, Any]] | None = None,
) -> dict[str, Any]:
    """Exports a model and checks that the file gives the outputs of the model.

    Args:
        model: A plain float or Brevitas model on any device; its train/eval mode is restored.
        example: A batch `[n, C, H, W]`. `onnx-int8` and `integers` also calibrate on it the scales of tensors that no
            layer quantizes, for example residual sums; use a few hundred training images for these formats.
        path: The file to write; it appears only after the check has passed.
        format: A registered export format; `onnx` for float models, `onnx-qcdq` for quantized ones.
        metadata: JSON-serializable values to store in the file.
        check: Batches `(images, labels)` to compare outputs on; the example if None.

    Returns:
        The keys that `spos-quant export --json` prints: `path, format, bytes, max_abs_diff, agreement`.

    Raises:
        ConfigError: the format is unknown.
        ExportError: the format cannot represent the model, the model does not map one tensor to one tensor, or the
            outputs of the file differ from those of the model.
    """
    return export_checked(
        model, example, Path(path), format=format, metadata=metadata or {}, check=check, keep=write_bytes
    )


def _check_output(model: nn.Module, x: Tensor) -> None:
    """Raises `ExportError` unless the model maps one tensor to one tensor of logits."""
    try:
        with torch.no_grad():
            output: object = model(x)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"an example of shape {tuple(x.shape)} does not fit the model: {error}") from None
    if not isinstance(output, Tensor) or output.dim() < 2:
        what = f"a tensor of {output.dim()} dimensions" if isinstance(output, Tensor) else type(output).__name__
        raise ExportError(
            f"the model returns {what}; expected logits [n, classes, ...]: wrap it in a module that returns them"
        )


def export_checked(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    format: str,
    metadata: Mapping[str, Any],
    check: Iterable[tuple[Tensor, Any]] | None,
    keep: Callable[[Path, bytes], None],
) -> dict[str, Any]:
    """`export_onnx` with `keep(path, content)`, which stores the checked file."""
    exporter = exporters[format]
    if not isinstance(example, Tensor):
        raise ExportError(f"expected one tensor as example, got {type(example).__name__}: files take one input")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    temporary = path.with_name(f".{path.name}.tmp")
    training = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    searchable = [name for name, layer in model.named_modules() if is_quant_layer(layer)]
    try:
        model.eval().cpu()
        _check_output(model, example[:1].cpu())
        exporter.write(model, example.cpu(), temporary, {**metadata, "format": format, "searchable": searchable})
        runtime = exporter.open(temporary)
        batches = [(example, None)] if check is None else check
        with torch.no_grad():
            parity = compare((model(x.cpu()).numpy(), runtime(x.cpu().numpy())) for x, _ in batches)
        if parity.agreement < MIN_AGREEMENT:
            raise ExportError(
                f"{path}: the file gives other labels than the model on {1 - parity.agreement:.1%} of {parity.n} "
                f"images (largest difference of a logit {parity.max_abs_diff:.3g}); the file was not kept"
                f"{exporter.hint}"
            )
        keep(path, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
        model.to(device)
        for module, mode in training.items():
            module.training = mode
    return {
        "path": str(path),
        "format": format,
        "bytes": path.stat().st_size,
        "max_abs_diff": parity.max_abs_diff,
        "agreement": parity.agreement,
    }
