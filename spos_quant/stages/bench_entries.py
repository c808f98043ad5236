"""Parses the items of `bench --bits` (`w2a2`, a file, `random:3`, `knapsack`, `best`) into results of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spos_quant.cost.budget import Budget, budgets_key
from spos_quant.cost.rows import architecture_rows, config_rows, total
from spos_quant.cost.sampler import FeasibleSampler
from spos_quant.errors import BudgetError, ConfigError, SpaceError, near
from spos_quant.progress import remark
from spos_quant.searchers.base import searchers
from spos_quant.space.bit_config import BitConfig, parse_uniform, read_bit_config
from spos_quant.space.search_space import Architecture, SearchSpace
from spos_quant.stages.retrain import user_result
from spos_quant.stages.run import Result, Run
from spos_quant.stages.search import search_run
from spos_quant.stages.search_request import Request
from spos_quant.streams import Stream, generator

Budgets = tuple[Budget, ...]
BEST, RANDOM = "best", "random"
_BEST_SEARCHER = "evolution"
_TRIES, _MOST_DRAWS = 50, 10_000


@dataclass(frozen=True)
class Entry:
    """One configuration of a bench."""

    bits: str
    """The item of `--bits`, without the number of draws."""
    result: Result
    budgets: Budgets = ()
    """The budgets of the draw or the search."""
    supernet_top1: float | None = None
    """Its top-1 in the supernet if a search found it."""


@dataclass(frozen=True)
class BenchItem:
    """One parsed item of `--bits`.

    Attributes:
        text: The item as given.
        searcher: The searcher that finds the configuration; None if it is not searched.
        draws: Number of architectures to draw within each budget; 0 if the item is not `random:N`.
    """

    text: str
    searcher: str | None = None
    draws: int = 0

    def count(self, budgets: int) -> int:
        """Number of configurations for this number of budgets."""
        return (self.draws or 1) * budgets if self.bounded else 1

    @property
    def bounded(self) -> bool:
        """Whether it needs a budget."""
        return bool(self.draws or self.searcher)


def parse_items(run: Run, texts: Sequence[str], budgets: Sequence[Budgets]) -> list[BenchItem]:
    """Parses and fully checks the items of `--bits`.

    Raises:
        ConfigError: there is no item, or a number of draws is invalid.
        SpaceError: an item is unknown, or bits or a file do not fit the network.
        BudgetError: an item needs a budget and none is given, or no architecture keeps a budget.
    """
    words = [_read_word(run, text) for text in dict.fromkeys(text.strip() for text in texts)]
    if not words:
        raise ConfigError("--bits names nothing; expected such as w2a2,w4a4,random:3,best")
    bounded = next((word for word in words if word.bounded), None)
    if bounded and not budgets:
        option = "--macs-budget" if run.spec.full_precision else "--bitops-budget"
        raise BudgetError(f"{bounded.text} needs a budget; give one or several, such as {option} 35%")
    for each in budgets if bounded else ():
        FeasibleSampler(run.table, each)
    return words


def _read_word(run: Run, text: str) -> BenchItem:
    if parse_uniform(text) is not None:
        return BenchItem(text)
    if Path(text).is_file():
        config_rows(run.space, read_bit_config(Path(text)))
        return BenchItem(text)
    name, colon, count = text.partition(":")
    if colon and name == RANDOM:
        if not (count.isdecimal() and 1 <= int(count) <= _MOST_DRAWS):
            raise ConfigError(f"{text!r}: expected a number of architectures to draw, such as {RANDOM}:3")
        return BenchItem(text, draws=int(count))
    if text == BEST or text in searchers:
        return BenchItem(text, searcher=_BEST_SEARCHER if text == BEST else text)
    known = [BEST, f"{RANDOM}:3", "w4a4", "float", *searchers]
    raise SpaceError(f"{text!r} is neither bits, a bit configuration file nor a searcher{near(text, known)}")


def needs_supernet(run: Run, words: Sequence[BenchItem]) -> bool:
    """Whether a search or the retraining (`init: inherit`) uses the supernet."""
    return run.spec.retrain.init == "inherit" or any(word.searcher for word in words)


def searches(words: Sequence[BenchItem], budgets: Sequence[Budgets]) -> list[Request]:
    """The searches of all words, one per budget."""
    return [Request(each, word.searcher) for word in words if word.searcher for each in budgets]


def entries(
    run: Run,
    words: Sequence[BenchItem],
    budgets: Sequence[Budgets],
    *,
    device: str,
    show: bool,
    workers: int,
    ray: str | None = None,
) -> list[Entry]:
    """The configurations in the order of the words, bounded ones once per budget; runs missing searches.

    Args:
        run: The run; its supernet must be trained if a word is searched.
        words: From `parse_items`.
        budgets: The budgets of drawn and searched configurations.
        device: Device that evaluates candidates.
        show: Whether to show progress.
        workers: Evaluator processes.
        ray: Address of a Ray cluster whose actors evaluate instead.
    """
    wanted = [(word, each) for word in words if word.searcher for each in budgets]
    found = search_run(run, searches(words, budgets), device=device, show=show, workers=workers, ray=ray)
    searched = {pair: run.result(done["key"]) for pair, done in zip(wanted, found, strict=True)}
    return list(_iter_entries(run, words, budgets, searched))


def shared(found: Sequence[Entry]) -> list[Entry]:
    """The entries; equal networks share the result of the first one, so that each network is trained once."""
    first: dict[object, Result] = {}
    kept = []
    for entry in found:
        own = entry.result
        result = first.setdefault(_network(own.run.space, read_bit_config(own.bits_path)), own)
        if result.key != own.key:
            remark(f"{own.key} is the same network as {result.key}, and shares its models")
        kept.append(replace(entry, result=result))
    return kept


def _network(space: SearchSpace, config: BitConfig) -> object:
    """Canonical form of the network that a configuration describes; equal networks compare equal."""
    blocks = [
        (choice.op, choice.width) if (choice := config.blocks.get(block.name)) else (op, 1.0)
        for block, op in zip(space.network_shapes.blocks, space.network_shapes.reference_ops, strict=True)
    ]
    return repr((config_rows(space, config), blocks, config.quantizer or space.spec.retrain_quantizer))


def _iter_entries(
    run: Run, words: Sequence[BenchItem], budgets: Sequence[Budgets], searched: dict[tuple[BenchItem, Budgets], Result]
) -> Iterator[Entry]:
    for word in words:
        if not word.bounded:
            yield Entry(word.text, user_result(run, word.text))
            continue
        for each in budgets:
            if word.searcher:
                result = searched[word, each]
                yield Entry(word.text, result, each, result.search()["score"])
            else:
                drawn = draw(run, each, word.draws)
                yield from (Entry(RANDOM, _put(run, each, i, a), each) for i, a in enumerate(drawn, 1))


def draw(run: Run, budgets: Budgets, count: int) -> list[Architecture]:
    """`count` different architectures, uniform within the budgets; a smaller `count` gives a prefix of a larger one."""
    sampler = FeasibleSampler(run.table, budgets)
    found: list[Architecture] = []
    for number in range(count):
        for attempt in range(_TRIES):
            drawn = sampler.sample(generator(Stream.RANDOM_ROW, run.seed, number, attempt), 1)
            if drawn and drawn[0] not in found:
                found += drawn
                break
        else:
            remark(f"only {len(found)} different architectures were drawn within {budgets_key(list(budgets))}")
            break
    return found


def _put(run: Run, budgets: Budgets, number: int, architecture: Architecture) -> Result:
    """Writes the bit configuration of a drawn architecture; returns its result."""
    rows = architecture_rows(run.space, architecture)
    bitops = None if run.spec.full_precision else total(rows, "bitops")
    cost: dict[str, Any] = {"formula": "bitops/1", "bitops": bitops, "macs": total(rows, "macs")}
    result = run.result(f"{RANDOM}-{budgets_key(list(budgets))}-{number}")
    provenance = {"seed": run.seed, "space": run.spec.name, "drawn": number}
    result.write_bit_config(run.space.bit_config(architecture, cost=cost, provenance=provenance).to_json())
    return result
