"""Path samplers: which paths of the supernet an optimizer step trains. No torch, so that plans can check them early.

References:
    [Guo2020] Single Path One-Shot NAS, arXiv 1904.00420: one uniform path per step (Sec. 3.3); the authors' code
        (megvii-model/SinglePathOneShot) first draws a cost bin.
    [Chu2021] FairNAS, arXiv 1907.01845: strict fairness.
    [Yu2019] Universally Slimmable Networks, arXiv 1903.05134: the sandwich rule and in-place distillation.
    [Yu2020] BigNAS, arXiv 2003.11142: the same for kernel sizes, depth and resolution.
    [Tang2024] RFQuant, arXiv 2401.01543: low bits disturb the weights shared with high bits, and can learn from these.
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
from spos_quant.errors import BudgetError, ConfigError
from spos_quant.registry import Registry
from spos_quant.space.search_space import Architecture
from spos_quant.streams import Stream, generator

_OPTIONS = ("path_metric", "path_low", "path_high", "path_bins")
_NAMED = 3
"""Maximum number of empty bins that a remark lists."""


@dataclass(frozen=True)
class Step:
    """The paths that one optimizer step trains, all on the same batch.

    Attributes:
        architectures: The paths, whose gradients are averaged. Empty trains the model as it is.
        teach: Whether the logits of the first path replace the labels as the target of the other paths.
    """

    architectures: tuple[Architecture, ...] = ()
    teach: bool = False


Paths = Callable[[int], Step]
"""Maps the number of a step, from 0, to its paths."""


@dataclass(frozen=True)
class PathProblem:
    """The input of a path sampler: the costs of a space, the settings and the seed."""

    table: CostTable
    config: SupernetTrainConfig
    seed: int

    @property
    def metric(self) -> str:
        """The cost metric of bounds, bins and extremes. Raises `ConfigError` if it is unknown or does not apply."""
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
        """`path_low` and `path_high` as inclusive costs; None if not given.

        Raises:
            ConfigError: a bound cannot be parsed, or `path_low` is above `path_high`.
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
        """The random generator of a step."""
        return generator(Stream.PATH, self.seed, step)


class PathSampler(ABC):
    """Draws the paths of a step. A draw depends on (seed, step) alone (decision record 0009).

    Attributes:
        reads: Which of `path_metric`, `path_low`, `path_high`, `path_bins` it uses; the others must not be given.
        remarks: Messages for the user at the start of the training.
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
    """The path sampler of the settings.

    Raises:
        ConfigError: an unknown sampler or metric, an option that the sampler does not use or that it lacks, or bounds
            that cannot be parsed or that no architecture satisfies.
    """
    name = config.path_sampler
    kind = path_samplers[name]
    for key in _OPTIONS:
        if getattr(config, key) != SupernetTrainConfig.model_fields[key].default and key not in kind.reads:
            users = ", ".join(other for other in path_samplers if key in path_samplers[other].reads)
            raise ConfigError(
                f"train.{key}: path sampler {name!r} does not use it; omit it, or set train.path_sampler to one that "
                f"does: {users}"
            )
    problem = PathProblem(table, config, seed)
    try:
        sampler = kind(problem)
    except BudgetError as error:
        raise ConfigError(f"train.path_sampler={name}: {error}") from None
    return BitsTeacher(problem, sampler) if config.path_teacher == "bits" else sampler


@path_samplers.register("uniform")
class Uniform(PathSampler):
    """One architecture, uniform over the whole space [Guo2020]."""

    def draw(self, step: int) -> Step:
        """One path."""
        return Step((self.space.sample(self.problem.rng(step)),))


@path_samplers.register("feasible")
class Feasible(PathSampler):
    """One architecture, uniform over those that cost `path_low` to `path_high`."""

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
    """A uniformly drawn cost bin, then one architecture uniform inside it, as in the code of [Guo2020].

    `path_bins` bins of equal width divide `path_low` to `path_high`. Each bin includes its lower edge, the last both
    edges. The authors use [290M, 300M), ..., [350M, 360M) MACs, and an architecture of any cost if 500 uniform draws
    miss the bin. Here a bin is never missed, and bins without an architecture are skipped.
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
                empty.append(f"{metrics[metric].text(first)} to {metrics[metric].text(last)}")
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
    """One architecture, such that an axis takes each of its K candidates once in every K steps [Chu2021].

    Steps 0 to K - 1 are the first round of the axis, and so on. A round is a random permutation of the candidates
    given by (seed, axis, round). FairNAS sums the gradients of the K paths of a round into one optimizer step. Here K
    differs between axes, and each path is its own step.

    The draw of an axis is discarded if the other axes make it irrelevant: the architecture has 0 there. A conditional
    axis therefore takes its candidates equally often only on average. Operators get equal shares, while a uniform
    architecture takes an operator the more often, the more choices depend on it.
    """

    def draw(self, step: int) -> Step:
        """One path."""
        picked = [self._candidate(axis, len(one.candidates), step) for axis, one in enumerate(self.space.axes)]
        return Step((self.space.canonical(picked),))

    def _candidate(self, axis: int, n: int, step: int) -> int:
        round_number, index = divmod(step, n)
        return int(generator(Stream.FAIR_PATH, self.problem.seed, axis, round_number).permutation(n)[index])


@path_samplers.register("sandwich")
class Sandwich(PathSampler):
    """The most expensive, the cheapest and a uniform architecture; the first teaches the others [Yu2019, Yu2020]."""

    reads = frozenset({"path_metric"})

    def __init__(self, problem: PathProblem) -> None:
        super().__init__(problem)
        self.ends = tuple(argcost(problem.table, problem.metric) for argcost in (argmax_cost, argmin_cost))

    def draw(self, step: int) -> Step:
        """Three paths, the teacher first."""
        return Step((*self.ends, self.space.sample(self.problem.rng(step))), teach=True)


class BitsTeacher(PathSampler):
    """The path of another sampler after its high-bit version, which learns the labels and teaches it [Tang2024].

    The high-bit version has the path's operators and widths, and on every bits axis the candidate with the most BitOps
    (float counts 32). Each bit-width thus learns the output of the shared weights at high precision. A path that equals
    its high-bit version is trained once.

    Raises:
        ConfigError: the steps of the sampler have several paths, one of which is already a teacher.
    """

    def __init__(self, problem: PathProblem, inner: PathSampler) -> None:
        super().__init__(problem)
        self.inner, self.remarks = inner, inner.remarks
        if len(inner.draw(0).architectures) > 1:
            raise ConfigError(
                f"train.path_teacher: the steps of path sampler {problem.config.path_sampler!r} have a teacher of "
                "their own; omit it, or choose a sampler with one path per step"
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
    """BitOps per MAC of a candidate of a bits axis; float counts 32."""
    return prod(b or 32 for b in (candidate if isinstance(candidate, tuple) else (candidate,)))


def _bins(low: int, high: int, count: int) -> list[tuple[int, int]]:
    """The lowest and highest cost of each of `count` bins of equal width, without bins that contain no integer."""
    edges = [low - (low - high) * i // count for i in range(count)]  # rounded up: bin i is [low + i w, low + (i + 1) w)
    bins = zip(edges, [*(edge - 1 for edge in edges[1:]), high], strict=True)
    return [(first, last) for first, last in bins if first <= last]


def _band(problem: PathProblem, low: int | None, high: int) -> FeasibleSampler:
    """Uniform over the architectures that cost `low` to `high`; raises `BudgetError` if there are none."""
    text = f"of at most {high:,}" if low is None else f"of {low:,} to {high:,}"
    return FeasibleSampler(problem.table, [Budget(problem.metric, high, text, low)])


def _one(sampler: FeasibleSampler, rng: np.random.Generator) -> Architecture:
    """One architecture of a sampler. Repeats draws, which may all miss a very narrow band; one must be feasible."""
    while not (found := sampler.sample(rng, 1)):
        pass
    return found[0]
