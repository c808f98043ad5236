"""`sq.export_onnx`: a model as a file that answers as the model does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.errors import ExportError
from spos_quant.export.onnx_file import bytes_by_type, finish, measure_onnx, read_metadata
from spos_quant.export.runtime import Answers, OnnxModel, compare
from spos_quant.quant.onnx import export_float, export_qcdq
from spos_quant.quant.static import is_quant_layer, read_bits
from spos_quant.registry import Registry
from spos_quant.run_dir import write_bytes

LEAST_AGREEMENT = 0.99
"""Below this share of equal labels a file is refused: rounding at a tie may flip a label, a wrong file flips many."""

Writer = Callable[[nn.Module, Tensor, Path, Mapping[str, Any]], None]
"""`(model, examples, path, metadata)`, writes the file or raises `ExportError`."""


@dataclass(frozen=True)
class Format:
    """How a model is written as a file, and how that file is asked and measured without the model."""

    write: Writer
    file: str
    """What the file is called in the folder of a result."""
    open: Callable[[Path], Answers] = OnnxModel
    """Gives the file's answers; raises `ExportError`."""
    measure: Callable[[Path], dict[str, Any]] = measure_onnx
    """What the file costs, read from its own contents, with the keys of `spos-quant cost --json`."""
    sizes: Callable[[Path], dict[str, int]] = bytes_by_type
    """Its bytes by the type of what is stored."""
    said: Callable[[Path], dict[str, Any]] = read_metadata
    """The metadata that was written into it."""
    hint: str = ""
    """What to do where its answers differ from the model's."""


exporters: Registry[Format] = Registry(
    "export format",
    builtin_modules=tuple(f"spos_quant.export.{name}" for name in ("api", "packed", "qonnx", "integer.formats")),
)


def write_onnx(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Float operators, for full-precision models."""
    for name, layer in model.named_modules():
        if read_bits(layer) != (None, None):
            raise ExportError(f"layer {name!r} is quantized; `onnx` holds float models only: use onnx-qcdq")
    export_float(model, example[:1], path)
    finish(path, metadata)


def write_onnx_qcdq(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    """Quantize - clip - dequantize chains on float operators: runs in any ONNX runtime."""
    need_quantized(model)
    odd_weights, binary_inputs = export_qcdq(model, example[:1], path)
    finish(path, metadata, odd_weights, binary_inputs)


def need_quantized(model: nn.Module) -> None:
    """Raises `ExportError` where a model has no layer that could be quantized."""
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
    """Writes a model as ONNX and checks in onnxruntime that the file gives the model's answers.

    Args:
        model: A plain float or Brevitas model on any device; its mode is left as it was.
        example: A batch `[n, C, H, W]`. `onnx-int8` and `integers` choose the steps of tensors that no layer quantizes,
            such as residual sums, by these images: some hundred training images are best.
        path: The file to write; it appears only when the check has passed.
        format: `onnx` for float models, `onnx-qcdq` for quantized ones.
        metadata: Plain values that travel in the file.
        check: Batches of images and labels to compare answers on; the example where None.

    Returns:
        What `spos-quant export --json` prints: `path, format, bytes, max_abs_diff, agreement`.

    Raises:
        ConfigError: an unknown format.
        ExportError: the format cannot hold the model, it does not turn one tensor into another, or the file's answers
            differ from the model's.
    """
    return export_checked(
        model, example, Path(path), format=format, metadata=metadata or {}, check=check, keep=write_bytes
    )


def _check_answer(model: nn.Module, x: Tensor) -> None:
    """Raises `ExportError` unless the model turns one tensor into one tensor of a score per class."""
    try:
        with torch.no_grad():
            answer: object = model(x)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"an example of shape {tuple(x.shape)} does not fit the model: {error}") from None
    if not isinstance(answer, Tensor) or answer.dim() < 2:
        what = f"a tensor of {answer.dim()} dimensions" if isinstance(answer, Tensor) else type(answer).__name__
        raise ExportError(
            f"the model answers with {what}; expected scores [n, classes, ...]: wrap it in a module that gives them"
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
    """`export_onnx`, with the function that puts the finished file in its place."""
    form = exporters[format]
    if not isinstance(example, Tensor):
        raise ExportError(f"expected one tensor as example, got {type(example).__name__}: files take one input")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    draft = path.with_name(f".{path.name}.tmp")
    training = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    searchable = [name for name, layer in model.named_modules() if is_quant_layer(layer)]
    try:
        model.eval().cpu()
        _check_answer(model, example[:1].cpu())
        form.write(model, example.cpu(), draft, {**metadata, "format": format, "searchable": searchable})
        runtime = form.open(draft)
        batches = [(example, None)] if check is None else check
        with torch.no_grad():
            parity = compare((model(x.cpu()).numpy(), runtime(x.cpu().numpy())) for x, _ in batches)
        if parity.agreement < LEAST_AGREEMENT:
            raise ExportError(
                f"{path}: the file gives other labels than the model on {1 - parity.agreement:.1%} of {parity.n} "
                f"images (largest difference of a logit {parity.max_abs_diff:.3g}); the file was not kept{form.hint}"
            )
        keep(path, draft.read_bytes())
    finally:
        draft.unlink(missing_ok=True)
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
