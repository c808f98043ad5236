"""Ends a retraining in the integer network, so that the exported integers are trained ones.

BatchNorm folded into scales, 32-bit biases and 8-bit sums change a few predictions of the fake-quantized model. The
last part of a training therefore trains the network of the exported files, whose forward pass uses integers.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from spos_quant.config import RetrainConfig
from spos_quant.export.integer.file import read_integers, write_integers
from spos_quant.export.integer.formats import FORMATS, integer_graph
from spos_quant.export.integer.graph import IntegerGraph
from spos_quant.export.integer.trainable import IntegerNet
from spos_quant.export.runtime import Floats, compare
from spos_quant.run_dir import digest, drop, store
from spos_quant.space.bit_config import read_bit_config
from spos_quant.stages.load import load_model
from spos_quant.stages.models import calibration_batches, scoring_batches
from spos_quant.stages.run import RESULTS, Result
from spos_quant.train.batches import TrainingBatches
from spos_quant.train.devices import make_fabric
from spos_quant.train.loop import Training, fit

_LR = 0.01
"""Peak learning rate relative to the retraining's; the network is already trained."""
_SPLIT = "search-val"


def folds(result: Result) -> bool:
    """Whether the retraining of a result ends in integers; never for float models or models of a ranking."""
    wanted = result.recipe.fold > 0 and result.subdirectory == RESULTS
    return wanted and not read_bit_config(result.bits_path).is_float


def is_folded(result: Result) -> bool:
    """Whether the integers of a result were trained with the share in its recipe."""
    return result.folded_path.exists() and result.metrics().get("fold", {}).get("share") == result.recipe.fold


def graph_of(result: Result, model: nn.Module) -> IntegerGraph:
    """The integer graph of a model of a result. Raises `ExportError` if it has none."""
    images, _ = next(iter(calibration_batches(result.run)))
    return integer_graph(model.eval().cpu(), images)


def fold_in_process(result: Result, *, device: str, show: bool) -> None:
    """Trains the integer network of a retrained model in this process: the only rank or one of several.

    The `fold` metrics of the result compare it with the retrained model on search-val, before and after this training.
    """
    run, recipe = result.run, result.recipe
    model = load_model(result)
    net = IntegerNet(graph_of(result, model))
    settings = _settings(recipe, TrainingBatches(run.data, recipe.batch_size, run.seed).per_epoch)
    fabric = make_fabric(settings, device)
    before = _compared(result, model, net)
    training = Training(
        run.data,
        settings,
        result.training_seed,
        f"fold {result.name}",
        show,
        checkpoint=result.checkpoint_path,
        identity=f"fold {recipe.fold} {digest(result.model_path)}",
        loggers=run.spec.log,
        logs=run.logs(f"fold-{result.name}"),
    )
    fit(fabric, net, training)
    if fabric.global_rank == 0:
        net.cpu()
        _store(net.graph(), result.folded_path)
        after = _compared(result, model, net)
        fold = {"share": recipe.fold, "steps": settings.iterations, "split": _SPLIT, "before": before, "after": after}
        result.update_metrics(fold=fold)
        drop(result.checkpoint_path)
    fabric.barrier()


def exports_folded(result: Result, form: str) -> bool:
    """Whether a format exports the trained integers of a result."""
    return form in FORMATS and folds(result) and is_folded(result)


def model_to_export(result: Result, form: str) -> nn.Module:
    """The model that a format exports: in integer formats the trained integers, if there are any."""
    if exports_folded(result, form):
        return IntegerNet(read_integers(result.folded_path)).eval()
    return load_model(result)


def _settings(recipe: RetrainConfig, per_epoch: int) -> RetrainConfig:
    steps = round(recipe.fold * recipe.steps(per_epoch))
    changes = {"iterations": steps, "lr": recipe.lr * _LR, "warmup_epochs": 0.0, "distill": 0.0, "ema": 0.0}
    return recipe.model_copy(update={**changes, "compile": False})  # it has no fake quantization to compile


def _compared(result: Result, model: nn.Module, net: nn.Module) -> dict[str, Any]:
    """Accuracy of the integer network, and its agreement with the model."""
    pairs, right, n = [], 0, 0
    for x, y in scoring_batches(result.run, _SPLIT, all_images=True):
        ours, theirs = _logits(model, x), _logits(net.cpu(), x)
        pairs.append((ours, theirs))
        right += int((theirs.argmax(1) == y.numpy()).sum())
        n += len(y)
    parity = compare(pairs)
    return {"top1": right / n, "agreement": parity.agreement, "max_abs_diff": parity.max_abs_diff, "n": n}


@torch.no_grad()
def _logits(model: nn.Module, x: torch.Tensor) -> Floats:
    logits: Floats = model.eval()(x).numpy()
    return np.asarray(logits)


def _store(graph: IntegerGraph, path: Path) -> None:
    with TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        write_integers(graph, draft, {})
        store(path, draft.read_bytes())
