from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import assert_uniform, toy_space

from spos_quant.cost.table import CostTable
from spos_quant.space.tree import Axis, Choice, Leaf, Product, decompose, sample_uniform


@st.composite
def conditional_axes(draw):
    """Up to two axes that are always relevant, up to four that depend on their candidates, and cost terms."""
    first = draw(st.integers(1, 2))
    axes = [Axis(f"op{i}", "op", tuple(range(draw(st.integers(2, 3))))) for i in range(first)]
    for i in range(draw(st.integers(0, 4))):
        uses = []
        for _ in range(draw(st.integers(1, 3))):
            named = draw(st.lists(st.integers(0, first - 1), unique=True, max_size=2))
            allowed = [
                frozenset(draw(st.sets(st.sampled_from(axes[a].candidates), min_size=1, max_size=2))) for a in named
            ]
            uses.append(tuple(zip(named, allowed, strict=True)))
        axes.append(Axis(f"x{i}", "bits", tuple(range(draw(st.integers(2, 3)))), tuple(uses)))
    every = st.integers(0, len(axes) - 1)
    return axes, draw(st.lists(st.frozensets(every, max_size=3), max_size=5))


def relevant(axis, indices):
    return any(all(indices[a] in allowed for a, allowed in use) for use in axis.uses)


def brute_force(axes):
    every = product(*(range(len(axis.candidates)) for axis in axes))
    return {tuple(i if relevant(axis, ix) else 0 for i, axis in zip(ix, axes, strict=True)) for ix in every}


def walk(node, indices):
    """The axes decided on one way through the tree, and its terms with the decisions that their node knows."""
    if isinstance(node, Leaf):
        return {node.axis}, [(t, {**node.decided, node.axis: indices[node.axis]}) for t in node.terms]
    if isinstance(node, Choice):
        decided, fixed = walk(node.children[indices[node.axis]], indices)
        return decided | {node.axis}, fixed
    decided, fixed = set(), [(t, dict(node.decided)) for t in node.terms]
    for child in node.children:
        more, terms = walk(child, indices)
        assert not decided & more
        decided |= more
        fixed += terms
    return decided, fixed


@settings(max_examples=150, deadline=None)
@given(conditional_axes())
def test_every_canonical_architecture_is_one_way_through_the_tree_that_determines_every_term_once(made):
    axes, terms = made
    expected = brute_force(axes)
    tree = decompose(axes, iter(terms))
    assert tree.size == decompose(axes).size == len(expected)
    for indices in expected:
        decided, fixed = walk(tree, indices)
        assert decided == {a for a, axis in enumerate(axes) if relevant(axis, indices)}
        assert sorted(t for t, _ in fixed) == list(range(len(terms)))
        for t, known in fixed:
            # axes that the node does not know count as candidate 0 (CostTable.term_value)
            assert all(known.get(a, 0) == indices[a] for a in terms[t])


@settings(max_examples=15, deadline=None)
@given(conditional_axes(), st.integers(0, 2**31))
def test_sampling_is_uniform(made, seed):
    axes, terms = made
    expected = brute_force(axes)
    rows = sample_uniform(decompose(axes, terms), len(axes), 40 * len(expected), np.random.default_rng(seed))
    assert_uniform([tuple(row) for row in rows.tolist()], expected)


def nodes(tree):
    found, left = {}, [tree]
    while left:
        node = left.pop()
        if id(node) not in found:
            found[id(node)] = node
            left += () if isinstance(node, Leaf) else node.children
    return list(found.values())


def test_independent_blocks_are_independent_parts():
    tree = CostTable(toy_space(blocks=5)).tree
    assert isinstance(tree, Product)
    assert len(tree.children) == 5


def test_an_axis_that_many_blocks_share_does_not_multiply_the_tree():
    space = toy_space(blocks=30, groups=[["b*"]])
    assert sum(axis.kind == "bits" for axis in space.axes) == 1
    tree = CostTable(space).tree
    assert len(nodes(tree)) < 5000
    # bits x (operator, width) of 30 blocks; the shortcut of b1 uses the bits under every operator
    assert tree.size == space.size == 3 * (1 + 2 * 2) ** 30


def test_a_conditional_axis_of_several_blocks_is_decided_once():
    space = toy_space(
        blocks=4,
        bits_per="layer",
        groups=[["b0.c2", "b2.c2", "b3.c2"]],
        axes={"op": ["conv", "skip"], "bits": [[2, 2], [4, 4]]},
    )
    assert space.size == len({space.canonical(ix) for ix in product(*(range(len(a.candidates)) for a in space.axes))})
    # b1 is independent, and so is c1 of the others; the shared axis is relevant if one of b0, b2, b3 is a convolution
    b1 = 2 * (1 + 2)
    assert space.size == b1 * (1 + ((1 + 2) ** 3 - 1) * 2)


@pytest.mark.parametrize("candidates", [1, 3])
def test_no_axes_and_one_axis(candidates):
    assert decompose([]).size == 1
    assert sample_uniform(decompose([]), 0, 4, np.random.default_rng(0)).shape == (4, 0)
    assert decompose([Axis("a", "bits", tuple(range(candidates)))]).size == candidates
