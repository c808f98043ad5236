"""Perturbations of the reference in spaces with conditional and shared axes, by enumeration; and their degradation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cost_cases import weird_spaces
from hypothesis import given, settings
from toy import VARIANTS, enumerate_space, toy_space

from spos_quant.cost.sensitivity import Loss, Perturbations, Sensitivity, measured, reference_metric
from spos_quant.cost.table import CostTable


def check(space):
    table = CostTable(space)
    found = Perturbations(table)
    metric = reference_metric(space)
    every = sorted(enumerate_space(space))
    costs = dict(zip(every, table.totals(every, metric).tolist(), strict=True))
    assert costs[found.reference] == max(costs.values())
    for d in found.all:
        assert space.canonical(d.architecture) == d.architecture
        assert space.relevant(d.start)[d.axis]
        assert space.relevant(d.architecture)[d.axis]
        assert d.architecture[d.axis] == d.candidate != d.start[d.axis]
        if space.relevant(found.reference)[d.axis]:
            assert d.start == found.reference
        # axes that are relevant in both architectures are equal, except the perturbed one
        kept, after = space.relevant(d.start), space.relevant(d.architecture)
        others = [a for a in range(len(space.axes)) if kept[a] and after[a] and a != d.axis]
        assert all(d.start[a] == d.architecture[a] for a in others)
        # axes that become relevant take their most expensive candidates
        alike = [
            a
            for a in every
            if a[d.axis] == d.candidate
            and all(a[i] == d.start[i] for i in range(len(a)) if kept[i] and space.relevant(a)[i] and i != d.axis)
        ]
        assert costs[d.architecture] == max(costs[a] for a in alike)
    pairs = [(d.axis, d.candidate) for d in found.all]
    assert pairs == sorted(set(pairs))
    assert len(pairs) == sum(len(axis.candidates) - 1 for axis in space.axes)
    assert len(set(found.architectures)) == len(found.architectures)
    assert {d.start for d in found.all} | {d.architecture for d in found.all} <= set(found.architectures)


@pytest.mark.parametrize("variant", VARIANTS)
def test_perturbations_in_every_kind_of_space(variant):
    check(toy_space(2, **VARIANTS[variant]))


@settings(max_examples=25, deadline=None)
@given(weird_spaces())
def test_perturbations_in_irregular_spaces(space):
    check(space)


def test_measured_losses_are_differences_to_the_start():
    space = toy_space(2)
    found = Perturbations(CostTable(space))
    evaluations = {a: (0.9 - 0.01 * i, 0.5 + 0.1 * i) for i, a in enumerate(found.architectures)}
    made = measured(found, evaluations)
    losses = made.losses(space)
    for row in made.rows:
        d = row.perturbation
        assert row.loss == pytest.approx(evaluations[d.architecture][1] - evaluations[d.start][1])
        assert row.score == pytest.approx(evaluations[d.start][0] - evaluations[d.architecture][0])
        assert losses[d.axis][d.candidate] == row.loss
    for axis, own in enumerate(losses):
        starts = {d.start[axis] for d in found.all if d.axis == axis}
        assert all(own[s] == 0 for s in starts)


def test_without_a_loss_the_degradation_is_that_of_the_score():
    space = toy_space(1)
    found = Perturbations(CostTable(space))
    made = measured(found, {a: (float(-i), None) for i, a in enumerate(found.architectures)})
    assert all(row.loss is None and row.degradation == row.score for row in made.rows)


def test_a_loss_that_is_not_finite_is_worse_than_any_other_and_null_in_json():
    space = toy_space(1)
    table = CostTable(space)
    found = Perturbations(table)
    rows = tuple(Loss(d, float("nan") if i == 0 else 0.1 * i, None) for i, d in enumerate(found.all))
    made = Sensitivity("gradient", found.reference, rows)
    losses, first = made.losses(space), found.all[0]
    assert losses[first.axis][first.candidate] > max(row.loss for row in rows[1:])
    assert np.isfinite(np.concatenate(losses)).all()
    raw = json.loads(json.dumps(made.to_json(table), allow_nan=False))
    assert raw["rows"][0]["loss"] is None
    assert raw["rows"][1]["loss"] == pytest.approx(0.1)
    assert raw["rows"][0]["axis"] == space.axes[first.axis].name
    assert {"axis", "kind", "candidate", "from", "architecture", "loss", "score", "saved"} <= raw["rows"][0].keys()
    assert all(row["saved"] >= 0 for row in raw["rows"])
