"""Which paths a sampler draws: by enumeration, by exact counts, and by chi-square where chance decides."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from toy import VARIANTS, assert_uniform, enumerate_space, toy_space
from train_cases import drawing, space

from spos_quant.config import SupernetTrainConfig
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError
from spos_quant.streams import Stream, generator
from spos_quant.train.paths import PathSampler, Step, make_sampler, path_samplers

TABLE = CostTable(toy_space(scale=1000))
COSTS = {a: TABLE.total(a) for a in enumerate_space(TABLE.space)}
LOW, HIGH = min(COSTS.values()), max(COSTS.values())
MIDDLE = sorted(COSTS.values())[len(COSTS) // 3]
SETTINGS = {
    "uniform": {},
    "feasible": {"path_low": LOW + 1, "path_high": MIDDLE},
    "cost-uniform": {"path_bins": 4},
    "fair": {},
    "sandwich": {},
}


def made(sampler: str, table: CostTable = TABLE, seed: int = 0, **config) -> PathSampler:
    return make_sampler(SupernetTrainConfig(path_sampler=sampler, **config), table, seed)


def single(sampler: PathSampler, steps: range) -> list[tuple[int, ...]]:
    """The one path of each step."""
    drawn = [sampler.draw(step) for step in steps]
    assert all(len(one.architectures) == 1 and not one.teach for one in drawn)
    return [one.architectures[0] for one in drawn]


def test_every_sampler_is_tried_here():
    assert set(path_samplers) == set(SETTINGS)
    code = "import sys, spos_quant.train.paths; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- every sampler


@pytest.mark.parametrize("name", SETTINGS)
def test_a_draw_follows_from_seed_and_step_alone(name):
    first = made(name, seed=5, **SETTINGS[name])
    drawn = [first.draw(step) for step in range(30)]
    again = made(name, seed=5, **SETTINGS[name])
    assert [again.draw(step) for step in reversed(range(30))] == drawn[::-1]
    assert [first.draw(step) for step in (7, 7, 3)] == [drawn[7], drawn[7], drawn[3]]
    other = made(name, seed=6, **SETTINGS[name])
    assert sum(other.draw(step) != drawn[step] for step in range(30)) > 15
    assert len({one.architectures for one in drawn}) > 10


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_path_is_a_canonical_architecture(name, variant):
    of = toy_space(**VARIANTS[variant])
    settings = {"path_high": "60%"} if name == "feasible" else {}
    sampler = made(name, CostTable(of), **settings)
    for step in range(20):
        drawn = sampler.draw(step)
        assert drawn.architectures
        for path in drawn.architectures:
            assert path == of.canonical(path)
            assert all(type(candidate) is int for candidate in path)


# ---- uniform


def test_the_default_is_a_sample_of_the_space_from_the_stream_of_the_step():
    of = space()
    expected = [Step((of.sample(generator(Stream.PATH, 5, step)),)) for step in range(20)]
    assert [drawing(5)(step) for step in range(20)] == expected
    assert [drawing(6)(step) for step in range(20)] != expected
    assert len(set(expected)) > 15


def test_the_default_is_uniform():
    """Over all canonical architectures, seen in any two axes: an operator's chance grows with what it has to choose."""
    of, draw = space(), drawing(0)
    found = [draw(step).architectures[0] for step in range(4000)]
    free = of.sample_many(np.random.default_rng(1), 60_000)
    for first in range(len(of.axes)):
        second = (first + 1) % len(of.axes)
        counts, expected = (Counter((a[first], a[second]) for a in many) for many in (found, free))
        assert counts.keys() <= expected.keys()
        cells = sorted(cell for cell, n in expected.items() if n > 300)
        observed = np.array([counts[cell] for cell in cells])
        share = np.array([expected[cell] for cell in cells], dtype=float)
        assert chisquare(observed, share / share.sum() * observed.sum()).pvalue > 1e-6


# ---- feasible


@pytest.mark.parametrize("low", [None, LOW + 1])
def test_feasible_is_uniform_within_its_bounds(low):
    drawn = single(made("feasible", path_low=low, path_high=MIDDLE), range(1500))
    within = [a for a, cost in COSTS.items() if (low or 0) <= cost <= MIDDLE]
    assert 20 < len(within) < len(COSTS) / 2
    assert_uniform(drawn, within)
    assert any(COSTS[a] == MIDDLE for a in within), "the bound itself is allowed"


def test_bounds_are_read_as_on_the_command_line():
    def bounds(**config):
        return made("feasible", **config).problem.bounds()

    assert bounds(path_high="w2a4") == (None, 8 * 696_000)
    assert bounds(path_low="3M", path_high="50%") == (3_000_000, HIGH // 2)
    assert bounds(path_low=3_000_000, path_high=5e6) == (3_000_000, 5_000_000)
    assert bounds(path_low=1, path_high=HIGH * 2) == (1, HIGH * 2)
    macs = made("feasible", path_metric="macs", path_high="100%")
    assert macs.problem.bounds() == (None, max(TABLE.total(a, "macs") for a in COSTS))
    assert len({TABLE.total(a, "macs") for a in single(macs, range(30))}) > 3


def test_the_metric_is_bitops_or_macs_where_there_are_none():
    float_table = CostTable(toy_space(**VARIANTS["full precision"]))
    assert made("sandwich").problem.metric == "bitops"
    assert made("sandwich", float_table).problem.metric == "macs"
    assert made("sandwich", float_table, path_metric="params").problem.metric == "params"


# ---- cost-uniform


def bins_by_hand(low: int, high: int, count: int) -> list[list[tuple[int, ...]]]:
    """Architectures by bin, with exact rational edges: [low + i w, low + (i + 1) w), the last closed above."""
    found: list[list[tuple[int, ...]]] = [[] for _ in range(count)]
    for architecture, cost in COSTS.items():
        if low <= cost <= high:
            turn = min((cost - low) * count // (high - low), count - 1)
            found[turn].append(architecture)
    return found


@pytest.mark.parametrize(
    ("low", "high", "count"), [(None, None, 4), (None, MIDDLE, 3), (LOW - 1000, HIGH + 1000, 5), (MIDDLE, None, 7)]
)
def test_cost_uniform_draws_a_bin_and_then_inside_it(low, high, count):
    sampler = made("cost-uniform", path_low=low, path_high=high, path_bins=count)
    by_bin = [one for one in bins_by_hand(low or LOW, high or HIGH, count) if one]
    bin_of = {a: i for i, bin in enumerate(by_bin) for a in bin}
    drawn = single(sampler, range(1000))
    assert set(drawn) <= bin_of.keys(), "outside the bounds"
    assert len(by_bin) > 2
    assert len({len(bin) for bin in by_bin}) > 1, "uniform over architectures would do as well"
    assert_uniform([bin_of[a] for a in drawn], range(len(by_bin)))
    enough = [bin for i, bin in enumerate(by_bin) if sum(bin_of[a] == i for a in drawn) > 15 * len(bin)]
    for bin in enough:
        assert_uniform([a for a in drawn if a in bin], bin)
    assert enough


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_bin_holds_its_lower_edge_and_the_last_bin_both(count):
    edge = sorted(set(COSTS.values()))[20]
    sampler = made("cost-uniform", path_low=edge - 600_000, path_high=edge + 600_000 * (count - 1), path_bins=count)
    bounds = [(bin.budgets[0].low, bin.budgets[0].limit) for bin in sampler.bins]
    assert bounds[:2] == [(edge - 600_000, edge - 1), (edge, edge + 600_000 - (count > 2))]
    assert bounds[-1][1] == edge + 600_000 * (count - 1)
    uneven = made("cost-uniform", path_low=LOW, path_high=LOW + 3_000_001, path_bins=2)
    assert [bin.budgets[0].limit for bin in uneven.bins] == [LOW + 1_500_000, LOW + 3_000_001]


def test_uniform_inside_a_bin():
    """All draws go to one bin, so that its many architectures are seen often enough."""
    top = MIDDLE + (HIGH - MIDDLE) // 50
    (bin,) = bins_by_hand(MIDDLE, top, 1)
    assert 5 < len(bin) < 50
    assert_uniform(single(made("cost-uniform", path_low=MIDDLE, path_high=top, path_bins=1), range(20 * len(bin))), bin)


def test_empty_bins_are_left_out_and_said():
    count = 60
    by_bin = bins_by_hand(LOW, HIGH, count)
    missing = [i for i, one in enumerate(by_bin) if not one]
    assert 0 < len(missing) < count
    sampler = made("cost-uniform", path_bins=count)
    assert sampler.remarks == (sampler.remarks[0],)
    assert f"{len(missing)} of {count} bins hold no architecture and are left out: " in sampler.remarks[0]
    assert len(sampler.bins) == count - len(missing)
    assert made("cost-uniform", path_bins=4).remarks == ()
    # more bins than whole numbers in between
    narrow = made("cost-uniform", path_low=MIDDLE, path_high=MIDDLE + 3, path_bins=9)
    assert {COSTS[a] for a in single(narrow, range(40))} <= set(range(MIDDLE, MIDDLE + 4))
    assert f"{9 - len(narrow.bins)} of 9 bins" in narrow.remarks[0]


# ---- fair


@pytest.mark.parametrize("variant", ["block", "two axes", "layer", "full precision"])
def test_fair_shows_every_candidate_once_in_each_round(variant, monkeypatch):
    """Every axis, before what is irrelevant becomes 0: exact counts in every window of K steps aligned to K."""
    of = toy_space(**VARIANTS[variant])
    raw = []
    monkeypatch.setattr(type(of), "canonical", lambda self, picked: raw.append(tuple(picked)) or tuple(picked))
    sampler = made("fair", CostTable(of), seed=2)
    for step in range(24):
        sampler.draw(step)
    sizes = {len(axis.candidates) for axis in of.axes}
    assert len(sizes) > 1
    for i, axis in enumerate(of.axes):
        n = len(axis.candidates)
        rounds = [tuple(picked[i] for picked in raw[start : start + n]) for start in range(0, 24 - n + 1, n)]
        assert all(sorted(one) == list(range(n)) for one in rounds)
        assert len(set(rounds)) > 1, "every round has the same order"


def test_fair_counts_of_axes_that_always_matter_are_exact():
    of = TABLE.space
    drawn = single(made("fair"), range(300))
    always = [i for i, axis in enumerate(of.axes) if axis.uses == ((),)]
    sometimes = [i for i in range(len(of.axes)) if i not in always]
    assert always
    assert sometimes
    for i in always:
        n = len(of.axes[i].candidates)
        assert Counter(a[i] for a in drawn) == dict.fromkeys(range(n), 300 // n)
    assert any(len(set(Counter(a[i] for a in drawn).values())) > 1 for i in sometimes)


def test_fair_rounds_are_random_and_axes_independent():
    of = TABLE.space
    pairs = [i for i, axis in enumerate(of.axes) if axis.uses == ((),) and len(axis.candidates) == 3][:2]
    drawn = single(made("fair", seed=4), range(3 * 1500))
    orders = Counter(tuple(a[pairs[0]] for a in drawn[start : start + 3]) for start in range(0, len(drawn), 3))
    assert len(orders) == 6
    assert chisquare(list(orders.values())).pvalue > 1e-6
    # One step of each round: within a round the pairs of two axes depend on each other.
    both = Counter((a[pairs[0]], a[pairs[1]]) for a in drawn[::3])
    assert len(both) == 9
    assert chisquare(list(both.values())).pvalue > 1e-6


# ---- sandwich


@pytest.mark.parametrize("metric", [None, "macs", "weight_bytes"])
def test_a_sandwich_is_the_dearest_the_cheapest_and_a_uniform_one(metric):
    costs = {a: TABLE.total(a, metric or "bitops") for a in COSTS}
    sampler, uniform = made("sandwich", seed=3, path_metric=metric), made("uniform", seed=3)
    for step in range(20):
        drawn = sampler.draw(step)
        assert drawn.teach
        first, second, third = drawn.architectures
        assert costs[first] == max(costs.values())
        assert costs[second] == min(costs.values())
        assert (third,) == uniform.draw(step).architectures


# ---- what goes wrong


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"path_sampler": "fiar"}, "unknown path sampler 'fiar'; did you mean 'fair'"),
        ({"path_low": "3M"}, "train.path_low: path sampler 'uniform' does not heed it; .*: cost-uniform, feasible"),
        ({"path_high": "3M"}, "train.path_high: path sampler 'uniform' does not heed it"),
        ({"path_metric": "macs"}, "train.path_metric: .*: cost-uniform, feasible, sandwich"),
        ({"path_bins": 9}, "train.path_bins: path sampler 'uniform' .*: cost-uniform"),
        ({"path_sampler": "fair", "path_high": "3M"}, "path sampler 'fair' does not heed it"),
        ({"path_sampler": "sandwich", "path_low": "3M"}, "path sampler 'sandwich' does not heed it"),
        ({"path_sampler": "feasible", "path_high": "3M", "path_bins": 3}, "'feasible' does not heed it"),
        ({"path_sampler": "feasible"}, "path_sampler=feasible needs train.path_high"),
        ({"path_sampler": "feasible", "path_low": "3M"}, "needs train.path_high"),
        ({"path_sampler": "feasible", "path_high": "3X"}, "train.path_high: .*unknown suffix 'X'"),
        ({"path_sampler": "feasible", "path_high": "3M", "path_low": ""}, "train.path_low: .*is no number above 0"),
        ({"path_sampler": "feasible", "path_high": "w9a9"}, "train.path_high: bitops budget"),
        ({"path_sampler": "feasible", "path_high": "w2a2", "path_metric": "macs"}, "bit-widths say nothing about macs"),
        ({"path_sampler": "feasible", "path_high": 5}, f"path_sampler=feasible: .*feasible: {LOW:,} to {HIGH:,}"),
        ({"path_sampler": "feasible", "path_high": LOW * 2, "path_low": LOW * 2 + 1}, "path_low=.* is above"),
        ({"path_sampler": "feasible", "path_high": "9G", "path_low": HIGH + 1}, f"feasible: {LOW:,} to {HIGH:,}"),
        ({"path_sampler": "cost-uniform", "path_high": LOW - 1, "path_low": 1}, f"feasible: {LOW:,} to {HIGH:,}"),
        ({"path_sampler": "cost-uniform", "path_low": HIGH + 1}, "no architecture of 'toy' costs"),
        ({"path_sampler": "cost-uniform", "path_low": LOW + 1, "path_high": LOW + 2}, "no architecture of 'toy' costs"),
        ({"path_sampler": "sandwich", "path_metric": "bitop"}, "unknown cost metric 'bitop'; did you mean 'bitops'"),
    ],
    ids=str,
)
def test_settings_that_would_be_ignored_or_kept_by_nothing(config, message):
    with pytest.raises(ConfigError, match=message):
        make_sampler(SupernetTrainConfig(**config), TABLE, 0)


def test_bitops_say_nothing_of_a_full_precision_space():
    table = CostTable(toy_space(**VARIANTS["full precision"]))
    for metric in ("bitops", "bitops_total"):
        with pytest.raises(ConfigError, match=r"path_metric: space 'toy' is full precision .*give macs, params or"):
            made("sandwich", table, path_metric=metric)


def test_a_bound_that_excludes_nothing_is_said():
    assert "excludes nothing" in made("feasible", path_high="100%").remarks[0]
    assert made("feasible", path_high="99%").remarks == ()


def test_a_path_is_taught_by_its_own_high_bit_version():
    """Same operators and widths; of each bits axis the candidate of most BitOps, where float counts 32."""
    plain, taught = drawing(4), drawing(4, path_teacher="bits")
    made = space()
    dearest = {"bits": (4, None)}  # 4 x 32 of [1, 2], [2, 4], [4, float], [8, 1]
    alone = 0
    for step in range(60):
        (path,) = plain(step).architectures
        planned = taught(step)
        assert planned.architectures[-1] == path
        teacher = planned.architectures[0]
        high = [axis.candidates.index(dearest[axis.kind]) if axis.kind in dearest else i
                for axis, i in zip(made.axes, path, strict=True)]  # fmt: skip
        assert teacher == made.canonical(high)
        assert planned.teach is (len(planned.architectures) == 2)
        assert made.describe(teacher).keys() == made.describe(path).keys()
        alone += len(planned.architectures) == 1
    assert alone < 30


def test_two_teachers_are_refused():
    with pytest.raises(ConfigError, match="train.path_teacher: the steps of path sampler 'sandwich' have a teacher"):
        drawing(0, path_sampler="sandwich", path_teacher="bits")


@pytest.mark.parametrize("sampler", ["fair", "feasible", "cost-uniform"])
def test_every_sampler_of_one_path_takes_a_teacher(sampler):
    options = {"path_high": "60%"} if sampler == "feasible" else {}
    plain, taught = (drawing(1, path_sampler=sampler, **options, **more)(5) for more in ({}, {"path_teacher": "bits"}))
    assert taught.architectures[-1:] == plain.architectures
