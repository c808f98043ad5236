"""Small search spaces with irregular costs, and their feasible architectures by enumeration."""

from __future__ import annotations

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st
from toy import enumerate_space, toy_space, with_costs

from spos_quant.cost.budget import Budget, cost_range
from spos_quant.errors import SpaceError

PRIMES = (2, 3, 7, 101, 997, 7919, 104_729, 15_485_863)
PAIRS36 = [[w, a] for w in (1, 2, 3, 4, 6, 8) for a in (1, 2, 3, 4, 6, 8)]


def within(space, table, budgets, fits=lambda a: True):
    """The feasible architectures, by enumeration."""
    every = sorted(enumerate_space(space))
    ok = np.ones(len(every), dtype=bool)
    for b in budgets:
        costs = table.totals(every, b.metric)
        ok &= (costs <= b.limit) & (costs >= (b.low or 0))
    return [a for a, keep in zip(every, ok, strict=True) if keep and fits(a)]


def at(table, share, metric="bitops", low=None):
    """A budget at a share of the cost range; with `low`, a band."""
    least, most = cost_range(table, metric)

    def limit(x):
        return int(least + x * (most - least))

    return Budget(metric, limit(share), f"{share}", None if low is None else limit(low))


@st.composite
def weird_spaces(draw):
    """Small spaces with conditional axes, shared axes and costs without a common divisor."""
    axes = {
        "op": draw(st.lists(st.sampled_from(["conv", "wide", "skip"]), min_size=1, max_size=3, unique=True)),
        "width": draw(st.sampled_from([[1.0], [0.5, 1.0]])),
    }
    if draw(st.booleans()):
        axes["bits"] = draw(
            st.lists(
                st.sampled_from([[1, 2], [2, 2], [3, 7], ["float", 4], [8, 8]]), min_size=1, max_size=3, unique_by=str
            )
        )
    else:
        axes["weight_bits"] = draw(st.lists(st.sampled_from([1, 3, "float"]), min_size=1, max_size=2, unique=True))
        axes["act_bits"] = draw(st.lists(st.sampled_from([2, 5]), min_size=1, max_size=2, unique=True))
    changes = {
        "axes": axes,
        "bits_per": draw(st.sampled_from(["block", "layer"])),
        "groups": draw(st.sampled_from([[], [["b0.c1", "b1.c1"]], [["b0", "b1"]]])),
        "overrides": draw(st.sampled_from([{}, {"b0": {"op": ["conv"]}}, {"b1": {"width": [0.5, 1.5]}}])),
        "keep_float": draw(st.sampled_from([["first", "last"], [], ["*.c1"]])),
    }
    try:
        space = toy_space(**changes)
    except SpaceError:
        reject()
    costs = draw(st.lists(st.sampled_from(PRIMES) | st.integers(0, 50), min_size=80, max_size=80))
    space = with_costs(space, iter(costs))
    product = np.prod([len(axis.candidates) for axis in space.axes], initial=1)
    return space if product <= 3000 else reject()
