"""Path samplers: which paths of the supernet an optimizer step trains. Without torch, so that plans check them early.

References:
    [Guo2020] Single Path One-Shot NAS, arXiv 1904.00420: one uniform path per step (Sec. 3.3); the authors' code
        (megvii-model/SinglePathOneShot) draws a bin of costs first.
    [Chu2021] FairNAS, arXiv 1907.01845: strict fairness.
    [Yu2019] Universally Slimmable Networks, arXiv 1903.05134: the sandwich rule and in-place distillation.
    [Yu2020] BigNAS, arXiv 2003.11142: the same over operators' kernels, depth and resolution.
    [Tang2024] RFQuant, arXiv 2401.01543: low bits disturb the weights that high bits share, and may learn from these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from spos_quant.config import SupernetTrainConfig
from spos_quant.cost.budget import Budget, budget_warnings, cost_range, parse_cost
from spos_quant.cost.feasible import argmax_cost, argmin_cost
from spos_quant.cost.metrics import metrics
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.cost.table import CostTable
from spos_quant.cost.units import amount
from spos_quant.errors import BudgetError, ConfigError
from spos_quant.registry import Registry
from spos_quant.space.search_space import Architecture
from spos_quant.streams import Stream, generator

_OPTIONS = ("path_metric", "path_low", "path_high", "path_bins")
_NAMED = 3
"""Empty bins that a remark names."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step trains, all of it on one batch.

    Attributes:
        architectures: The paths, whose gradients are averaged; none trains the model as it is.
        teach: Whether the logits of the first path are the target of the others, in place of the labels.
    """

    architectures: tuple[Architecture, ...] = ()
    teach: bool = False


Paths = Callable[[int], Step]
"""What the training loop asks: the paths of a step, by its number from 0."""


@dataclass(frozen=True)
class PathProblem:
    """What a sampler works on: the costs of a space, the settings, and the seed that every draw follows from."""

    table: CostTable
    config: SupernetTrainConfig
    seed: int

    @property
    def metric(self) -> str:
        """The cost metric of bounds, bins and extremes. Raises `ConfigError` where it is unknown or says nothing."""
        name, full_precision = self.config.path_metric, self.table.space.spec.full_precision
        if name is None:
            return "macs" if full_precision else "bitops"
        metrics[name]
        if full_precision and name.startswith("bitops"):
            raise ConfigError(
                f"train.path_metric: space {self.table.space.name!r} is full precision and has no BitOps; "
                "give macs, params or weight_bytes"
            )
        return name

    def bounds(self) -> tuple[int | None, int | None]:
        """`path_low` and `path_high` as costs, both included; None where they are not given.

        Raises:
            ConfigError: a text that is no cost, or bounds the wrong way round.
        """
        low, high = self._cost("path_low"), self._cost("path_high")
        if low is not None and high is not None and low > high:
            raise ConfigError(
                f"train.path_low={self.config.path_low} ({low:,} {self.metric}) is above "
                f"train.path_high={self.config.path_high} ({high:,})"
            )
        return low, high

    def _cost(self, key: str) -> int | None:
        text = getattr(self.config, key)
        try:
            return None if text is None else parse_cost(text, self.metric, self.table)
        except BudgetError as error:
            raise ConfigError(f"train.{key}: {error}") from None

    def rng(self, step: int) -> np.random.Generator:
        """The generator of a step's random path."""
        return generator(Stream.PATH, self.seed, step)


class PathSampler(ABC):
    """Draws the paths of a step. A draw follows from (seed, step) alone (design decision 0009).

    Attributes:
        reads: Which of `path_metric`, `path_low`, `path_high`, `path_bins` it heeds; the others may not be given.
        remarks: What a person should know when the training starts.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    remarks: tuple[str, ...] = ()

    def __init__(self, problem: PathProblem) -> None:
        self.problem = problem
        self.space = problem.table.space

    @abstractmethod
    def draw(self, step: int) -> Step:
        """The paths of step number `step`."""


path_samplers: Registry[type[PathSampler]] = Registry("path sampler", builtin_modules=("spos_quant.train.paths",))


def make_sampler(config: SupernetTrainConfig, table: CostTable, seed: int) -> PathSampler:
    """The path sampler that the settings ask for.

    Raises:
        ConfigError: an unknown sampler or metric, an option that it would ignore or that it lacks, or bounds that
            cannot be read or that no architecture keeps.
    """
    name = config.path_sampler
    kind = path_samplers[name]
    for key in _OPTIONS:
        if getattr(config, key) != SupernetTrainConfig.model_fields[key].default and key not in kind.reads:
            able = ", ".join(other for other in path_samplers if key in path_samplers[other].reads)
            raise ConfigError(
                f"train.{key}: path sampler {name!r} does not heed it; leave it away, or set train.path_sampler to one "
                f"that does: {able}"
            )
    problem = PathProblem(table, config, seed)
    try:
        sampler = kind(problem)
    except BudgetError as error:
        raise ConfigError(f"train.path_sampler={name}: {error}") from None
    return BitsTeacher(problem, sampler) if config.path_teacher == "bits" else sampler


@path_samplers.register("uniform")
class Uniform(PathSampler):
    """One architecture, uniform over all of the space [Guo2020]."""

    def draw(self, step: int) -> Step:
        """One path."""
        return Step((self.space.sample(self.problem.rng(step)),))


@path_samplers.register("feasible")
class Feasible(PathSampler):
    """One architecture, uniform over those from `path_low` to `path_high`."""

    reads = frozenset({"path_metric", "path_low", "path_high"})

    def __init__(self, problem: PathProblem) -> None:
        super().__init__(problem)
        low, high = problem.bounds()
        if high is None:
            raise ConfigError(
                "train.path_sampler=feasible needs train.path_high, the largest cost of a path such as 290M, w3a4 or "
                "35%; without one it would be `uniform`"
            )
        self.sampler = _band(problem, low, high)
        if low is None:
            self.remarks = tuple(budget_warnings(self.sampler.budgets, problem.table))

    def draw(self, step: int) -> Step:
        """One path."""
        return Step((_one(self.sampler, self.problem.rng(step)),))


@path_samplers.register("cost-uniform")
class CostUniform(PathSampler):
    """A bin of costs, each as likely as the others, then one architecture uniform inside it: as the authors' code does.

    `path_bins` bins of equal width divide `path_low` to `path_high`: each holds its lower edge, the last both. The
    authors take [290M, 300M), ..., [350M, 360M) MACs, and wherever 500 uniform draws miss the bin, an architecture of
    any cost; here a bin is never missed, and bins without an architecture are left out.
    """

    reads = frozenset(_OPTIONS)

    def __init__(self, problem: PathProblem) -> None:
        super().__init__(problem)
        metric, (low, high) = problem.metric, problem.bounds()
        cheapest, most_expensive = cost_range(problem.table, metric)
        low, high = cheapest if low is None else low, most_expensive if high is None else high
        self.bins: list[FeasibleSampler] = []
        empty = []
        for first, last in _bins(low, high, problem.config.path_bins):
            try:
                self.bins.append(_band(problem, first, last))
            except BudgetError:
                empty.append(f"{amount(metric, first)} to {amount(metric, last)}")
        if not self.bins:
            raise ConfigError(
                f"train.path_low, train.path_high: no architecture of {self.space.name!r} costs {low:,} to {high:,} "
                f"{metric}; feasible: {cheapest:,} to {most_expensive:,}"
            )
        if missing := problem.config.path_bins - len(self.bins):
            shown = ", ".join(empty[:_NAMED]) + (", ..." if missing > len(empty[:_NAMED]) else "")
            bins = f"{missing} of {problem.config.path_bins} bins"
            self.remarks = (f"path sampler cost-uniform: {bins} hold no architecture and are left out: {shown}",)

    def draw(self, step: int) -> Step:
        """One path."""
        rng = self.problem.rng(step)
        return Step((_one(self.bins[int(rng.integers(len(self.bins)))], rng),))


@path_samplers.register("fair")
class Fair(PathSampler):
    """One architecture, so that an axis takes each of its K candidates once in every K steps [Chu2021].

    Steps 0 to K - 1 are the axis' first round, and so on; a round is a random permutation of the candidates, drawn from
    (seed, axis, round). FairNAS sums the gradients of the K paths of a round into one optimizer step; here axes have
    different K, and each path is a step of its own.

    What an axis draws while the other axes make it irrelevant decides nothing: the architecture says 0 there. So a
    conditional axis shows its candidates equally often only on average. And operators come in equal shares, whereas a
    uniform architecture has an operator the more often, the more there is to choose below it.
    """

    def draw(self, step: int) -> Step:
        """One path."""
        picked = [self._candidate(axis, len(one.candidates), step) for axis, one in enumerate(self.space.axes)]
        return Step((self.space.canonical(picked),))

    def _candidate(self, axis: int, n: int, step: int) -> int:
        turn, place = divmod(step, n)
        return int(generator(Stream.FAIR_PATH, self.problem.seed, axis, turn).permutation(n)[place])


@path_samplers.register("sandwich")
class Sandwich(PathSampler):
    """The most expensive architecture, the cheapest, and a uniform one; the most expensive teaches the others [Yu2019, Yu2020]."""

    reads = frozenset({"path_metric"})

    def __init__(self, problem: PathProblem) -> None:
        super().__init__(problem)
        self.ends = tuple(argcost(problem.table, problem.metric) for argcost in (argmax_cost, argmin_cost))

    def draw(self, step: int) -> Step:
        """Three paths, the teacher first."""
        return Step((*self.ends, self.space.sample(self.problem.rng(step))), teach=True)


class BitsTeacher(PathSampler):
    """Another sampler's path behind its own high-bit version, which learns the labels and teaches it [Tang2024].

    The high-bit version has the path's operators and widths, and of every bits axis the candidate of most BitOps (float
    counts 32). So each bit-width sees what the shared weights are for when nothing is rounded away. A path that is its
    own high-bit version is trained once.

    Raises:
        ConfigError: a sampler whose steps have several paths, one of them a teacher already.
    """

    def __init__(self, problem: PathProblem, inner: PathSampler) -> None:
        super().__init__(problem)
        self.inner, self.remarks = inner, inner.remarks
        if len(inner.draw(0).architectures) > 1:
            raise ConfigError(
                f"train.path_teacher: the steps of path sampler {problem.config.path_sampler!r} have a teacher of "
                "their own; leave it away, or choose a sampler of one path"
            )
        self._most_bits = {
            i: max(range(len(axis.candidates)), key=lambda c, axis=axis: _bit_product(axis.candidates[c]))  # type: ignore[misc]
            for i, axis in enumerate(self.space.axes)
            if axis.kind in ("bits", "weight_bits", "act_bits")
        }

    def draw(self, step: int) -> Step:
        """Two paths, the teacher first; or one."""
        (path,) = self.inner.draw(step).architectures
        teacher = self.space.canonical([self._most_bits.get(i, chosen) for i, chosen in enumerate(path)])
        return Step((path,)) if teacher == path else Step((teacher, path), teach=True)


def _bit_product(candidate: int | tuple[int | None, ...] | None) -> int:
    """What a candidate of a bits axis multiplies MACs by; float counts 32."""
    return prod(b or 32 for b in (candidate if isinstance(candidate, tuple) else (candidate,)))


def _bins(low: int, high: int, count: int) -> list[tuple[int, int]]:
    """The least and the largest cost of each of `count` bins of equal width; bins that hold no whole number miss."""
    edges = [low - (low - high) * i // count for i in range(count)]  # rounded up: [low + i w, low + (i + 1) w)
    bins = zip(edges, [*(edge - 1 for edge in edges[1:]), high], strict=True)
    return [(first, last) for first, last in bins if first <= last]


def _band(problem: PathProblem, low: int | None, high: int) -> FeasibleSampler:
    """Uniform over the architectures that cost `low` to `high`; raises `BudgetError` where there is none."""
    text = f"of at most {high:,}" if low is None else f"of {low:,} to {high:,}"
    return FeasibleSampler(problem.table, [Budget(problem.metric, high, text, low)])


def _one(sampler: FeasibleSampler, rng: np.random.Generator) -> Architecture:
    """One architecture of a sampler that has some: its draws may all miss a very narrow band, and are repeated."""
    while not (found := sampler.sample(rng, 1)):
        pass
    return found[0]
