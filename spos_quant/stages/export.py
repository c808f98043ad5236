"""Export stage: writes the retrained model as files."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

from spos_quant.export import api
from spos_quant.export.integer.c_header import c_header
from spos_quant.export.integer.file import read_integers
from spos_quant.progress import tracked
from spos_quant.run_dir import read_artifact, store, store_json
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages.card import write_card
from spos_quant.stages.fold import model_to_export
from spos_quant.stages.models import calibration_batches, scoring_batches
from spos_quant.stages.run import Result


def export_result(result: Result, form: str, *, show: bool = False) -> dict[str, Any]:
    """Writes the retrained model and its card; returns `path, format, bytes, max_abs_diff, agreement, key`."""
    result.require_model()
    file = api.exporters[form].file
    run = result.run
    config = read_bit_config(result.bits_path)
    metadata = {
        "preprocessing": run.data.preprocessing.to_dict(),
        "classes": list(run.data.classes),
        "bit_config": config.to_json(),
        "data": run.data.name,
    }
    path = result.path / file
    batches = scoring_batches(run, "search-val", all_images=True)
    check = tracked(batches, f"check {path.name} of {result.key}", batches.count, unit="batches", show=show)
    example, _ = next(iter(calibration_batches(run)))
    made = api.export_checked(
        model_to_export(result, form), example, path, format=form, metadata=metadata, check=check, keep=store
    )
    kept = [item for item in _listed(result) if item["format"] != form]
    store_json(result.exports_path, sorted([*kept, {**made, "path": path.name}], key=itemgetter("format")))
    write_card(result)
    return {**made, "key": result.key}


def write_header(path: Path) -> None:
    """Writes an `integers` file as a C header beside it."""
    store(path.with_suffix(".h"), c_header(read_integers(path)).encode("utf-8"))


def natural_format(result: Result) -> str:
    """`onnx` for a float model, `onnx-qcdq` for a quantized one."""
    return "onnx" if read_bit_config(result.bits_path).is_float else "onnx-qcdq"


def exports(result: Result) -> list[dict[str, Any]]:
    """The exports of a result, sorted by format; paths include the run directory."""
    return [{**item, "path": str(result.path / item["path"])} for item in _listed(result)]


def _listed(result: Result) -> list[dict[str, Any]]:
    """The exports of a result; paths are file names."""
    items: list[dict[str, Any]] = read_artifact(result.exports_path, list) if result.exports_path.exists() else []
    return items
