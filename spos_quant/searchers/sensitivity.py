"""`sq.sensitivity`: the loss increase of every candidate, as a function, for users with their own training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from spos_quant.cost.sensitivity import ESTIMATES, Perturbations, Sensitivity, measured
from spos_quant.errors import ConfigError, near
from spos_quant.progress import progress
from spos_quant.searchers.evaluators import UNSET, FunctionEvaluator, resolve_recalibration
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.evaluation import recalibrate as recalibrated
from spos_quant.train.fisher import LossFunction, fisher_sensitivity


def sensitivity(
    supernet: Supernet,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    recalibrate: Iterable[object] | None = UNSET,
    estimate: str = "measured",
    batches: Iterable[Any] | None = None,
    loss: LossFunction | None = None,
    seed: int = 0,
    show: bool = False,
) -> Sensitivity:
    """The degradation when a single axis of the most expensive architecture takes another candidate.

    `measured` evaluates every perturbation. `gradient` estimates the loss increase of bits from gradients alone, for
    weights and activations, on a trained supernet or on a float model just quantized; see `spos_quant.train.fisher`.

    Args:
        supernet: Its active path changes.
        evaluate: `f(module) -> float`, higher is better; for `measured`.
        recalibrate: Batches of training images from which the BatchNorm statistics of every path are recomputed.
            `measured` requires them if the model has BatchNorm; None states that none is needed. `gradient` keeps the
            statistics as they are if they are not given.
        estimate: `measured` or `gradient`.
        batches: Inputs, or pairs of inputs and labels; for `gradient`.
        loss: `(output, labels) -> sum over the batch`; for `gradient`. None takes outputs as logits and uses the Fisher
            information of their own probabilities.
        seed: Seed of the random signs of that estimate.
        show: Shows progress on stderr.

    Returns:
        The perturbations with their degradation. `.optima(supernet.table, weight_bytes_budget="w4a8")` gives the exact
        optimum of their sum.

    Raises:
        ConfigError: an unknown estimate, a missing argument of the estimate, BatchNorm without `recalibrate`, or an
            `evaluate` that returns no number.
    """
    if estimate not in ESTIMATES:
        raise ConfigError(f"unknown estimate {estimate!r}{near(estimate, ESTIMATES)}")
    if estimate == "gradient":
        if batches is None:
            raise ConfigError("estimate='gradient' needs batches=<batches of training images>")
        images = None if recalibrate is UNSET else recalibrate

        def prepare() -> None:
            if images is not None:
                recalibrated(supernet, images)

        return fisher_sensitivity(supernet, batches, loss=loss, prepare=prepare, seed=seed)
    if evaluate is None:
        raise ConfigError("estimate='measured' needs evaluate=<a function of the module to a number>")
    evaluator = FunctionEvaluator(supernet, evaluate, resolve_recalibration(supernet, recalibrate))
    perturbations = Perturbations(supernet.table)
    asked = perturbations.architectures
    found = {}
    with progress("sensitivity", len(asked), unit="architectures", show=show) as tick:
        for one in evaluator(asked):
            found[one.architecture] = (one.score, one.loss)
            tick(f"score {one.score:.4f}")
    return measured(perturbations, found)
