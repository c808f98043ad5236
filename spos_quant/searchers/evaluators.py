"""Evaluators: from architectures to scores, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from math import isfinite
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.errors import ConfigError
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.switch import absorbed_norms, kept_weights
from spos_quant.searchers.base import Evaluation, Evaluator
from spos_quant.searchers.evaluation_log import EvaluationLog
from spos_quant.searchers.prefix_cache import PrefixCache
from spos_quant.space.search_space import Architecture
from spos_quant.supernet.network import norms_behind
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.devices import median_seconds
from spos_quant.train.evaluation import Score, batch_norms, recalibrate, score, to_evaluation

_PASSES = 9
"""Passes that show which way takes less time, the first of which does not count."""
UNSET: Any = object()
"""Stands for `recalibrate` that was not given."""


def given_recalibration(supernet: Supernet, recalibration: Iterable[object] | None) -> Iterable[object] | None:
    """The batches that BatchNorm statistics are recomputed from, or None where a person says that none are needed.

    Raises:
        ConfigError: nothing is said of them, and the supernet has BatchNorm.
    """
    if recalibration is not UNSET:
        return recalibration
    if batch_norms(supernet):
        raise ConfigError(
            "the supernet has BatchNorm layers, whose statistics are wrong for a path until they are recomputed: "
            "give recalibrate=<batches of training images>, or recalibrate=None if you know that none is needed"
        )
    return None


class SupernetEvaluator:
    """Activates an architecture, recalibrates its BatchNorm statistics and scores it on search-val.

    Args:
        supernet: Trained; its active path changes.
        recalibration: Batches of training images under the training augmentation.
        validation: Batches of search-val images and labels.
        compiled: Whether fake quantization runs as compiled loops; the scores do not depend on it. None: if passes of
            the first candidate take less time with them, as on a GPU only some networks' do.
        channels_last: Whether weights, and with them what convolutions give, lie in memory with their channels last:
            faster, and other last bits of the scores.
        int8: Whether convolutions sum integers, where the processor can (`quant.integers`): faster, and now and then
            another level of an activation.
        prefix_bytes: What the activations of an image may take that are kept for the next candidate, which may share
            them; batches must then be the same each time. Scores do not depend on it.
    """

    def __init__(
        self,
        supernet: Supernet,
        recalibration: Iterable[object],
        validation: Iterable[tuple[Tensor, Tensor]],
        *,
        compiled: bool | None = False,
        channels_last: bool = False,
        int8: bool = False,
        prefix_bytes: int = 0,
    ) -> None:
        self.supernet, self.recalibration, self.validation = supernet, recalibration, validation
        self.compiled, self.int8 = compiled, int8
        if channels_last:  # convolutions take their memory format from the weights
            supernet.to(memory_format=torch.channels_last)
        self._layers = [layer for layer, *_ in supernet.quantized_layers()]
        self._norms = batch_norms(supernet)
        self._pairs = list(norms_behind(supernet.body)) if int8 else []
        self._prefix_bytes = prefix_bytes
        self._prefix: PrefixCache | None = None

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Evaluations in order, made as they are asked for."""
        device = next(self.supernet.parameters()).device
        for architecture in architectures:
            self.supernet.activate(architecture)
            if self.compiled is None:
                seconds = [self._seconds_per_pass(way, device) for way in (False, True)]
                self.compiled = seconds[True] < seconds[False]
            with compiled_kernels(self.compiled, str(device)), kept_weights(self._layers, integers=self.int8):
                result = self._judged(architecture)
            yield Evaluation(architecture, result.top1, result.loss)

    @torch.no_grad()
    def _seconds_per_pass(self, compiled: bool, device: torch.device) -> float:
        """Of the active path on the first batch."""
        images, _ = next(iter(self.validation))
        images = images.to(device)
        to_evaluation(self.supernet)
        with compiled_kernels(compiled, str(device)), kept_weights(self._layers):
            return median_seconds([partial(self.supernet, images)] * _PASSES, device)

    def _judged(self, architecture: Architecture) -> Score:
        """The score of the active path."""
        prefix = self._prefix_cache()
        training, validation = self.recalibration, self.validation
        if prefix is not None:
            training, validation = prefix.passes("recalibrate", training), prefix.passes("score", validation)
        with nullcontext() if prefix is None else prefix.candidate(architecture):
            recalibrate(self.supernet, training, self._norms)
            with absorbed_norms(self._pairs):
                return score(self.supernet, validation)

    def _prefix_cache(self) -> PrefixCache | None:
        """Made with the first candidate; None where nothing is to be kept."""
        if self._prefix is None and self._prefix_bytes:
            device = next(self.supernet.parameters()).device
            images, _ = next(iter(self.validation))
            self._prefix = PrefixCache(self.supernet, images[:2].to(device), self._prefix_bytes)
        return self._prefix


class FunctionEvaluator:
    """Scores the active supernet with a function of the user's.

    Args:
        supernet: Trained; its active path changes.
        function: Takes the module, returns a number; higher is better.
        recalibration: Batches of images, or pairs whose first item is images; None where there is nothing to do.
    """

    def __init__(
        self, supernet: Supernet, function: Callable[[nn.Module], float], recalibration: Iterable[object] | None
    ) -> None:
        self.supernet, self.function, self.recalibration = supernet, function, recalibration
        self._norms = batch_norms(supernet)
        self._layers = [layer for layer, *_ in supernet.quantized_layers()]

    def prepare(self, architecture: Architecture) -> None:
        """Makes the supernet what the function judges: the path active, BatchNorm recalibrated, evaluation mode."""
        self.supernet.activate(architecture)
        if self.recalibration is not None:
            recalibrate(self.supernet, self.recalibration, self._norms)
        self.supernet.eval()

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Evaluations in order. Raises `ConfigError` where the function gives no finite number."""
        for architecture in architectures:
            with torch.no_grad(), kept_weights(self._layers):
                self.prepare(architecture)
                value: object = self.function(self.supernet)
            if isinstance(value, Tensor) and value.numel() == 1:
                value = value.item()
            if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
                raise ConfigError(f"evaluate() returned {value!r}; expected a finite number, higher is better")
            yield Evaluation(architecture, float(value))


class ThreadLimit:
    """An evaluator that computes with so many CPU threads, whatever the process uses otherwise.

    The order in which threads add numbers up changes last bits, and near a tie the winner with them. So the number is
    part of a search's settings and not of the machine's.
    """

    def __init__(self, evaluator: Evaluator, threads: int) -> None:
        self.evaluator, self.threads = evaluator, threads

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Evaluations in order."""
        for architecture in architectures:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                (evaluation,) = self.evaluator([architecture])
            finally:
                torch.set_num_threads(before)
            yield evaluation


class LoggedEvaluator:
    """Looks evaluations up in a log and makes only those that it misses."""

    def __init__(self, evaluator: Evaluator, log: EvaluationLog) -> None:
        self.evaluator, self.log = evaluator, log

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Evaluations in order; new ones are in the log before they are yielded."""
        # Looked up once: another process may log some of the missing ones while this one makes them.
        known = {architecture: self.log.get(architecture) for architecture in architectures}
        made = iter(self.evaluator([a for a, evaluation in known.items() if evaluation is None]))
        for architecture in architectures:
            evaluation = known[architecture]
            if evaluation is None:
                evaluation = known[architecture] = next(made)
                self.log.add(evaluation)
            yield evaluation
