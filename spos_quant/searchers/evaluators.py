"""Evaluators that score architectures in this process."""

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
from spos_quant.quant.switch import cached_weights, fused_norms
from spos_quant.searchers.base import Evaluation, Evaluator
from spos_quant.searchers.evaluation_log import EvaluationLog
from spos_quant.searchers.prefix_cache import PrefixCache
from spos_quant.space.search_space import Architecture
from spos_quant.supernet.network import layers_with_following_norm
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.devices import median_seconds
from spos_quant.train.evaluation import Score, batch_norms, ensure_eval, recalibrate, score

_PASSES = 9
"""Timed forward passes per variant, the first of which is discarded."""
UNSET: Any = object()
"""Marks a `recalibrate` argument that was not given."""


def resolve_recalibration(supernet: Supernet, recalibration: Iterable[object] | None) -> Iterable[object] | None:
    """The batches for BatchNorm recalibration, or None if the user stated that none are needed.

    Raises:
        ConfigError: the argument is missing and the supernet has BatchNorm.
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
        supernet: Trained. Its active path changes.
        recalibration: Batches of training images under the training augmentation.
        validation: Batches of search-val images and labels.
        compiled: Whether fake quantization runs in compiled kernels; scores do not depend on it. None times both
            variants on the first candidate and takes the faster one: on a GPU, compiling speeds up only some networks.
        channels_last: Whether weights, and therefore convolution outputs, are in channels-last memory format. This is
            faster and changes the last bits of the scores.
        int8: Whether convolutions use integer arithmetic if the processor supports it (`quant.integers`). This is
            faster and occasionally rounds an activation to another level.
        prefix_bytes: Memory per image for activations kept for the next candidate, which may share its first blocks.
            Requires the same batches each time. Scores do not depend on it.
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
        if channels_last:  # convolution outputs take the memory format of the weights
            supernet.to(memory_format=torch.channels_last)
        self._layers = [layer for layer, *_ in supernet.quantized_layers()]
        self._norms = batch_norms(supernet)
        self._pairs = list(layers_with_following_norm(supernet.body)) if int8 else []
        self._prefix_bytes = prefix_bytes
        self._prefix: PrefixCache | None = None

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Yields evaluations in order, each computed on demand."""
        device = next(self.supernet.parameters()).device
        for architecture in architectures:
            self.supernet.activate(architecture)
            if self.compiled is None:
                seconds = [self._seconds_per_pass(compiled, device) for compiled in (False, True)]
                self.compiled = seconds[True] < seconds[False]
            with compiled_kernels(self.compiled, str(device)), cached_weights(self._layers, integers=self.int8):
                result = self._score(architecture)
            yield Evaluation(architecture, result.top1, result.loss)

    @torch.no_grad()
    def _seconds_per_pass(self, compiled: bool, device: torch.device) -> float:
        """Median forward time of the active path on the first batch."""
        images, _ = next(iter(self.validation))
        images = images.to(device)
        ensure_eval(self.supernet)
        with compiled_kernels(compiled, str(device)), cached_weights(self._layers):
            return median_seconds([partial(self.supernet, images)] * _PASSES, device)

    def _score(self, architecture: Architecture) -> Score:
        """The score of the active path."""
        prefix = self._prefix_cache()
        training, validation = self.recalibration, self.validation
        if prefix is not None:
            training, validation = prefix.passes("recalibrate", training), prefix.passes("score", validation)
        with nullcontext() if prefix is None else prefix.candidate(architecture):
            recalibrate(self.supernet, training, self._norms)
            with fused_norms(self._pairs):
                return score(self.supernet, validation)

    def _prefix_cache(self) -> PrefixCache | None:
        """Created with the first candidate; None if `prefix_bytes` is 0."""
        if self._prefix is None and self._prefix_bytes:
            device = next(self.supernet.parameters()).device
            images, _ = next(iter(self.validation))
            self._prefix = PrefixCache(self.supernet, images[:2].to(device), self._prefix_bytes)
        return self._prefix


class FunctionEvaluator:
    """Scores the active path of a supernet with a function of the user.

    Args:
        supernet: Trained. Its active path changes.
        function: Takes the module and returns a number; higher is better.
        recalibration: Batches of images, or pairs whose first item is images. None skips recalibration.
    """

    def __init__(
        self, supernet: Supernet, function: Callable[[nn.Module], float], recalibration: Iterable[object] | None
    ) -> None:
        self.supernet, self.function, self.recalibration = supernet, function, recalibration
        self._norms = batch_norms(supernet)
        self._layers = [layer for layer, *_ in supernet.quantized_layers()]

    def prepare(self, architecture: Architecture) -> None:
        """Activates the path, recalibrates BatchNorm and sets evaluation mode."""
        self.supernet.activate(architecture)
        if self.recalibration is not None:
            recalibrate(self.supernet, self.recalibration, self._norms)
        self.supernet.eval()

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Yields evaluations in order. Raises `ConfigError` if the function returns no finite number."""
        for architecture in architectures:
            with torch.no_grad(), cached_weights(self._layers):
                self.prepare(architecture)
                value: object = self.function(self.supernet)
            if isinstance(value, Tensor) and value.numel() == 1:
                value = value.item()
            if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
                raise ConfigError(f"evaluate() returned {value!r}; expected a finite number, higher is better")
            yield Evaluation(architecture, float(value))


class ThreadLimit:
    """Runs an evaluator with a fixed number of CPU threads, regardless of the setting of the process.

    The number of threads changes the order of summation and thus the last bits of a score, which can decide a near tie.
    It is therefore a setting of the search and not of the machine.
    """

    def __init__(self, evaluator: Evaluator, threads: int) -> None:
        self.evaluator, self.threads = evaluator, threads

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Yields evaluations in order."""
        for architecture in architectures:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                (evaluation,) = self.evaluator([architecture])
            finally:
                torch.set_num_threads(before)
            yield evaluation


class CachedEvaluator:
    """Looks evaluations up in a log and computes only the missing ones."""

    def __init__(self, evaluator: Evaluator, log: EvaluationLog) -> None:
        self.evaluator, self.log = evaluator, log

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Yields evaluations in order; new ones are logged before they are yielded."""
        # Looked up once: another process may log some of the missing ones while this one computes them.
        known = {architecture: self.log.get(architecture) for architecture in architectures}
        made = iter(self.evaluator([a for a, evaluation in known.items() if evaluation is None]))
        for architecture in architectures:
            evaluation = known[architecture]
            if evaluation is None:
                evaluation = known[architecture] = next(made)
                self.log.add(evaluation)
            yield evaluation
