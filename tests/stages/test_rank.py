"""Rankings: drawn architectures, kept artifacts, and reproducible correlations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stages_settings import BUDGET

from spos_quant.cost.budget import cost_range
from spos_quant.cost.sensitivity import from_json
from spos_quant.errors import BudgetError, ConfigError, SpaceError
from spos_quant.run_dir import read_artifact
from spos_quant.searchers.rank_correlation import rank_agreement
from spos_quant.space.bit_config import read_bit_config
from spos_quant.space.spec import parse_spec
from spos_quant.stages.open_run import Options, open_existing, plan_run
from spos_quant.stages.rank import STRATA, check, draw, parse_cost_range

QUICK = ("--set", "rank.iterations=3")
RANK = ("--n", 4, "--seeds", 2, *QUICK)


@pytest.fixture
def copy(tiny_run, tmp_path) -> Path:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    return run


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    return plan_run("digits-mixed", Options(out=tmp_path_factory.mktemp("planned") / "run")).run


def costs(run, drawn):
    return [run.table.total(one.architecture) for one in drawn]


def test_draws_fill_the_strata_evenly_and_share_a_prefix(planned):
    band = parse_cost_range(planned, None)
    assert band == cost_range(planned.table, "bitops")
    many = draw(planned, 20, band)
    assert draw(planned, 7, band) == many[:7]
    assert len({one.architecture for one in many}) == 20
    assert [one.stratum for one in many[:STRATA]] == list(range(STRATA))
    width = (band[1] - band[0] + 1) / STRATA
    assert all(
        int((cost - band[0]) / width) == one.stratum for cost, one in zip(costs(planned, many), many, strict=True)
    )


def test_a_band_bounds_the_draws(planned):
    low, high = parse_cost_range(planned, "w2a2:30%")
    assert (low, high) == (4_456_448, int(0.3 * cost_range(planned.table, "bitops")[1]))
    drawn = draw(planned, 6, (low, high))
    assert low <= min(costs(planned, drawn)) <= max(costs(planned, drawn)) <= high


@pytest.mark.parametrize(
    ("band", "message"),
    [
        ("2M", "expected LOW:HIGH, such as 2M:2.2M"),
        ("3M:2M", "3,000,000 bitops is above 2,000,000"),
        ("1G:2G", "allows no architecture"),
        ("x:2M", "'x' is no number above 0"),
    ],
)
def test_wrong_bands_are_explained(planned, band, message):
    with pytest.raises(BudgetError, match=message):
        parse_cost_range(planned, band)


def test_too_few_architectures_are_refused(planned):
    with pytest.raises(BudgetError, match="widen --band"):
        draw(planned, 10, (16_384, 16_384))
    with pytest.raises(ConfigError, match="--n 3: expected 4 to"):
        check(3, 1)


def test_the_recipe_is_that_of_retrain_overridden_by_rank(planned):
    raw = planned.spec.model_dump(mode="json")
    raw["retrain"]["iterations"] = 900
    assert parse_spec(raw, "x").ranked == parse_spec(raw, "x").retrain
    shorter = parse_spec({**raw, "rank": {"epochs": 2, "lr": 0.5}}, "x").ranked
    assert (shorter.epochs, shorter.iterations, shorter.lr) == (2, None, 0.5)
    with pytest.raises(SpaceError, match=r"rank\.epoch: unknown key; did you mean 'epochs'"):
        parse_spec({**raw, "rank": {"epoch": 2}}, "x")


def test_ranking_end_to_end(copy, command):
    """`ranking.json` against the log, the artifacts and `fidelity`."""
    results = sorted(str(path) for path in (copy / "results").rglob("*"))
    made = command("rank", copy, "--n", 4, *QUICK, json=True)
    assert made["skipped"] == []
    assert made["ceiling"] is None
    assert set(made["judges"]) == {"top1", "loss"}, "no gradient estimate of operators and widths"
    assert sorted(str(path) for path in (copy / "results").rglob("*")) == results
    assert not list((copy / "ranking").rglob("*.safetensors"))
    stored = json.loads((copy / "ranking.json").read_text())
    assert {key: made[key] for key in stored} == stored
    run = open_existing(str(copy))
    report = json.loads((copy / "report.json").read_text())
    log = {e["architecture"]: e["score"] for e in report["evaluations"]}
    assert report["ranking"] == stored
    assert 'id="ranking"' in (copy / "report.html").read_text()
    kept = [read_bit_config(path).to_json()["layers"] for path in (copy / "ranking").rglob("*.bits.json")]
    assert len(kept) == 4
    for row in made["rows"]:
        architecture = run.space.decode(row["architecture"])
        assert row["cost"] == run.table.total(architecture)
        assert row["supernet_top1"] == log[row["architecture"]]
        assert run.space.bit_config(architecture).to_json()["layers"] in kept
        (alone,) = row["alone"]
        assert (alone["seed"], alone["top1"], alone["n"]) == (0, row["alone_top1"], 287)
    columns = [[row[key] for row in made["rows"]] for key in ("supernet_top1", "alone_top1", "cost", "stratum")]
    expected = json.loads(json.dumps(rank_agreement(*columns, seed=0)))
    assert {key: made["judges"]["top1"][key] for key in expected} == expected


def test_sensitivities_are_predictors_if_every_axis_has_a_gradient_estimate(tmp_path, command):
    space = {
        **{"name": "bits", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 10, "data": "digits"},
        **{"axes": {"bits": [[2, 4], [4, 4], [8, 8]]}, "bits_per": "layer"},
        **{"train": {"iterations": 2}, "retrain": {"iterations": 1}},
        "search": {"recalibration_images": 64, "max_images": 64, "gradient_images": 64},
    }
    path = tmp_path / "bits.yaml"
    path.write_text(json.dumps(space))
    command("train", path, "--out", tmp_path / "run", json=True)
    made = command("rank", tmp_path / "run", "--n", 5, json=True)
    run = open_existing(str(tmp_path / "run"))
    losses = from_json(read_artifact(run.sensitivity_path("gradient")), run.table).losses(run.space)
    for row in made["rows"]:
        architecture = run.space.decode(row["architecture"])
        assert row["degradation"] == pytest.approx(sum(own[c] for own, c in zip(losses, architecture, strict=True)))
    columns = [[row[key] for row in made["rows"]] for key in ("alone_top1", "cost", "stratum")]
    expected = json.loads(json.dumps(rank_agreement([-row["degradation"] for row in made["rows"]], *columns, seed=0)))
    judges = made["judges"]
    assert {key: judges["sensitivity"][key] for key in expected} == expected
    assert set(judges) == {"top1", "loss", "sensitivity"}
    assert "sum of sensitivities from gradients" in (tmp_path / "run" / "report.html").read_text()
    assert "sum of sensitivities" in command("rank", tmp_path / "run", "--n", 5)[1]


@pytest.mark.slow
def test_an_interrupted_ranking_resumes_with_any_number_of_workers(copy, command, interrupted_after):
    with interrupted_after(3):
        assert command("rank", copy, *RANK)[0] == 130
    first = command("rank", copy, *RANK, "--workers", 2, json=True)
    assert len(first["skipped"]) == 3
    assert first["ceiling"] is not None
    for row in first["rows"]:
        assert [one["seed"] for one in row["alone"]] == [0, 1]
        assert row["alone_top1"] == sum(one["top1"] for one in row["alone"]) / 2
    before = (copy / "ranking.json").read_bytes()
    shutil.rmtree(copy / "ranking")
    assert command("rank", copy, *RANK, json=True)["skipped"] == []  # in this process, without interruption
    assert (copy / "ranking.json").read_bytes() == before
    more = command("rank", copy, "--n", 5, "--seeds", 1, *QUICK, json=True)
    assert len(more["skipped"]) == 4


@pytest.mark.slow
def test_another_recipe_is_trained_again(copy, command):
    first = command("rank", copy, "--n", 4, *QUICK, json=True)
    again = command("rank", copy, "--n", 4, "--set", "rank.checkpoint_steps=2", json=True)
    assert len(again["skipped"]) == 4  # this setting changes no weight
    other = command("rank", copy, "--n", 4, "--set", "rank.lr=0.2", json=True)
    assert other["skipped"] == []
    assert [row["architecture"] for row in other["rows"]] == [row["architecture"] for row in first["rows"]]
    assert other["recipe"]["lr"] == 0.2
    status, _, err = command("retrain", copy, "--bits", "w8a8", "--set", "retrain.lr=0.2")
    assert status == 2
    assert "retrain.lr is 0.05 there" in err
    assert command("search", copy, "--bitops-budget", BUDGET)[0] == 0  # the run itself is unchanged
