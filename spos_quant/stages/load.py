"""`sq.load`: loads a retrained model from a run directory, without the supernet, training or export modules."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from spos_quant.backbones.build import build_plain, space_of
from spos_quant.space.bit_config import read_bit_config
from spos_quant.space.locked import locked_spec
from spos_quant.stages.run import Result, read_run
from spos_quant.supernet.weights import load_weights, read_weights


def load(run: str | Path, result: str | None = None) -> nn.Module:
    """The retrained Brevitas model of a run directory, in evaluation mode.

    Args:
        run: A run directory.
        result: Key of the result; required if the run has several.

    Raises:
        RunError: the run or result does not exist, is not retrained yet, or has a damaged file.
        ModelError: the weights are of another model.
    """
    opened, _ = read_run(Path(run))
    return load_model(opened.pick(result))


def load_model(result: Result) -> nn.Module:
    """The retrained plain model of a result, in evaluation mode."""
    result.require_model()
    config = read_bit_config(result.bits_path)
    model = build_plain(space_of(locked_spec(result.run.space, config)))
    load_weights(model, read_weights(result.model_path), str(result.model_path))
    return model.eval()
