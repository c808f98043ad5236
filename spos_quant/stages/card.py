"""The model card beside exported files: origin, cost and accuracy of a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from spos_quant.cost.metrics import formula_metrics
from spos_quant.cost.rows import config_rows, space_summary
from spos_quant.run_dir import digest, read_artifact, store
from spos_quant.space.bit_config import BitConfig, read_bit_config
from spos_quant.stages.open_run import model_settings
from spos_quant.stages.run import Result

_FORMULA = (
    "the sum over the quantized layers, for one image, of multiply-adds x weight bits x bits of the layer's input. "
    "A float operand of a layer that could be quantized counts 32; layers that the space keeps float are not counted."
)


def write_card(result: Result) -> None:
    """Rewrites `model-card.md` of a retrained result; equal artifacts give an equal card."""
    config = read_bit_config(result.bits_path)
    parts = (_head(result), _accuracy(result), _cost(result, config), _files(result), _origin(result, config))
    store(result.card_path, ("\n\n".join(parts) + "\n").encode("utf-8"))


def _head(result: Result) -> str:
    spec = result.run.spec
    shape = " x ".join(map(str, spec.input))
    return (
        f"# {spec.name} {result.key}\n\n"
        f"A classifier of {shape} images into {spec.classes} classes: the network {spec.backbone}, quantized by "
        "spos-quant and retrained."
    )


def _accuracy(result: Result) -> str:
    metrics = result.metrics()
    rows = [
        (split, _number(metrics[key]["top1"]), _number(metrics[key]["loss"]), f"{metrics[key]['n']:,}")
        for split, key in (("search-val", "search_val"), ("test", "test"))
        if key in metrics
    ]
    note = f"Data: `{result.run.data_source}`; architectures were selected on search-val, never on test."
    missing = "" if "test" in metrics else "\n\nNot evaluated on the test split yet."
    return f"## Accuracy\n\n{note}\n\n" + _table(("split", "top-1", "loss", "images"), rows) + missing


def _cost(result: Result, config: BitConfig) -> str:
    run = result.run
    cost = space_summary(run.space, config_rows(run.space, config))
    limits = result.search().get("budget") or {}
    rows = [(name, _count(cost[name]), _count(limits.get(name))) for name in formula_metrics()]
    layers = [
        (
            f"`{layer['name']}`",
            layer["kind"],
            _bits(layer["weight_bits"]),
            _bits(layer["act_bits"]),
            f"{layer['macs']:,}",
            f"{layer['bitops']:,}" if layer["counted"] else "not counted",
        )
        for layer in cost["layers"]
    ]
    blocks = [(f"`{name}`", choice.op, str(choice.width)) for name, choice in config.blocks.items()]
    parts = [
        f"## Cost of one image\n\n{_table(('metric', 'cost', 'budget'), rows)}",
        f"BitOps (`{cost['formula']}`): {_FORMULA}",
        f"## Layers\n\n{_table(('layer', 'kind', 'weight bits', 'input bits', 'MACs', 'BitOps'), layers)}",
    ]
    if blocks:
        parts.append(_table(("block", "operator", "width"), blocks))
    return "\n\n".join(parts)


def _files(result: Result) -> str:
    items = read_artifact(result.exports_path, list) if result.exports_path.exists() else []
    rows = [
        (
            f"`{item['path']}`",
            item["format"],
            f"{item['bytes']:,}",
            _number(item["agreement"]),
            f"{item['max_abs_diff']:.3g}",
            f"`{digest(result.path / item['path'])}`",
        )
        for item in items
        if (result.path / item["path"]).is_file()
    ]
    head = ("file", "format", "bytes", "top-1 agreement with the model", "max abs. logit difference", "SHA-256")
    weights = f"Weights: `{result.model_path.name}`, SHA-256 `{digest(result.model_path)}`."
    return f"## Files\n\n{weights}\n\n{_table(head, rows)}\n\nAgreement and difference were measured on search-val."


def _origin(result: Result, config: BitConfig) -> str:
    run = result.run
    packages = read_artifact(run.path / "environment.json")["packages"]
    rows = [
        ("seed of the run", str(run.seed)),
        ("seed of the retraining", str(result.training_seed)),
        ("quantizer", str(config.quantizer or run.spec.quantizer)),
        *(
            (f"retrain.{key}", f"`{json.dumps(value)}`")
            for key, value in model_settings("retrain", result.recipe).items()
        ),
        *((name, version or "not installed") for name, version in packages.items()),
    ]
    return f"## Origin\n\n{_table(('what', 'value'), rows)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _bits(bits: int | None) -> str:
    return "float" if bits is None else str(bits)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _number(value: float) -> str:
    return f"{value:.4f}"
