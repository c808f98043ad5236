"""What makes a run, and what a command may ask of one that exists."""

from __future__ import annotations

import pytest
import yaml

from spos_quant.errors import ConfigError, RunError
from spos_quant.stages.run import Options, open_existing, plan_run

SPACE = """\
name: mine
backbone: digits-resnet
input: [1, 8, 8]
classes: 10
data: digits
axes: {bits: [[2, 2], [4, 4]]}
train: {epochs: 7}
"""


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SPACE)
    return "mine.yaml"


def made(target, *assignments, **options):
    plan = plan_run(target, Options(assignments=assignments, **options))
    plan.write()
    return plan.run


def test_planning_writes_nothing(space, tmp_path):
    plan_run(space, Options())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_options_not_given_take_the_runs_values(space):
    made(space, "train.epochs=3", "search.population=4", seed=5)
    again = plan_run(space, Options()).run
    assert (again.seed, again.spec.train.epochs, again.spec.search.population) == (5, 3, 4)
    assert open_existing("runs/mine").spec == again.spec
    assert plan_run("runs/mine", Options()).run.spec == again.spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(seed=1), "seed is 0 there, 1 was asked for"),
        (Options(data="fake"), "data is 'digits' there, 'fake' was asked for"),
        (Options(assignments=("train.lr=0.5",)), "train.lr is 0.1 there, 0.5 was asked for"),
        (Options(assignments=("retrain.epochs=1",)), "retrain.epochs is 240 there, 1 was asked for"),
    ],
)
def test_other_settings_are_refused_with_the_difference(space, options, message):
    made(space)
    for target in (space, "runs/mine"):
        with pytest.raises(RunError, match=message):
            plan_run(target, options)


def test_an_edited_space_is_another_run(space, tmp_path):
    made(space)
    (tmp_path / space).write_text(SPACE.replace("[4, 4]", "[8, 8]"))
    with pytest.raises(RunError, match=r"axes.bits is .*asked for"):
        plan_run(space, Options())


def test_search_settings_are_free(space):
    made(space)
    run = made("runs/mine", "search.generations=3")
    assert run.spec.search.generations == 3
    assert open_existing("runs/mine").spec.search.generations == 3
    assert plan_run(space, Options()).run.spec.search.generations == 3


def test_configuration_is_resolved_and_readable(space, tmp_path):
    made(space, "train.epochs=3")
    config = yaml.safe_load((tmp_path / "runs/mine/config.yaml").read_text())
    assert config["format"] == 1
    assert config["space"]["train"]["epochs"] == 3
    assert config["space"]["retrain"]["lr"] == 0.1
    assert config["set"] == {"train": {"epochs": 3}}


def test_a_run_of_a_newer_format_is_refused(space, tmp_path):
    made(space)
    path = tmp_path / "runs/mine/config.yaml"
    path.write_text(path.read_text().replace("format: 1", "format: 2"))
    with pytest.raises(RunError, match="format 2; this version reads format 1"):
        open_existing("runs/mine")


def test_an_existing_directory_wins_over_a_space(space):
    made(space, out=None)
    run = made(space, out=None)
    assert str(run.path) == "runs/mine"
    with pytest.raises(ConfigError, match="is a run directory itself"):
        plan_run("runs/mine", Options(out=run.path.parent / "other"))


def test_results_are_picked_by_name_or_because_there_is_only_one(space):
    run = made(space)
    with pytest.raises(RunError, match="has no result yet; make one with: spos-quant search"):
        run.pick(None)
    for key in ("bits-w2a2", "bits-w4a4"):
        result = run.result(key)
        result.path.mkdir(parents=True)
        result.bits_path.write_text("{}")
    with pytest.raises(RunError, match="name one with --result: bits-w2a2, bits-w4a4"):
        run.pick(None)
    with pytest.raises(RunError, match="did you mean 'bits-w4a4'"):
        run.pick("bits-w4a5")
    run.result("bits-w4a4").search_path.write_text("{}")
    assert run.pick(None).key == "bits-w4a4"  # the only searched one
    with pytest.raises(RunError, match="is not retrained yet; do it with: spos-quant retrain"):
        run.pick(None).need_model()


@pytest.mark.slow
def test_two_ranks_train_one_supernet(command, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = command(
        *("train", "digits-mixed", "--device", "cpu", "--out", tmp_path / "run"),
        *("--set", "train.devices=2", "--set", "train.epochs=2"),
        json=True,
    )
    assert result["epoch"] == 2
    assert (tmp_path / "run" / "supernet.safetensors").exists()
