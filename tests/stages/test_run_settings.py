"""Settings of new runs, and the settings that commands may change in existing runs."""

from __future__ import annotations

import re

import pytest
import yaml

from spos_quant.errors import ConfigError, RunError
from spos_quant.run_dir import LOCK, store
from spos_quant.stages.open_run import Options, open_existing, plan_run

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
    with plan.open() as run:
        return run


def test_planning_writes_nothing(space, tmp_path):
    plan_run(space, Options())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["train.path_sampler=fiar"], "unknown path sampler 'fiar'; did you mean 'fair'"),
        (["train.path_low=1M"], "train.path_low: path sampler 'uniform' does not use it"),
        (["train.path_sampler=feasible"], "needs train.path_high"),
        (["train.path_sampler=feasible", "train.path_high=3X"], "train.path_high: .*unknown suffix 'X'"),
        (["train.path_sampler=cost-uniform", "train.path_low=1G", "train.path_high=2G"], "no architecture of 'mine'"),
        (["train.path_sampler=sandwich", "train.path_metric=bops"], "unknown cost metric 'bops'"),
    ],
)
def test_invalid_path_samplers_are_refused_before_anything_is_written(space, tmp_path, assignments, message):
    with pytest.raises(ConfigError, match=message):
        plan_run(space, Options(assignments=tuple(assignments)))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_path_sampler_and_iterations_cannot_change_in_a_run(space):
    given = ("train.path_sampler=feasible", "train.path_high=w4a4", "train.iterations=9", "retrain.schedule=linear")
    run = made(space, *given)
    assert open_existing("runs/mine").spec == run.spec
    assert (run.spec.train.path_sampler, run.spec.train.path_high, run.spec.train.iterations) == ("feasible", "w4a4", 9)
    for text, message in (
        ("train.path_high=w2a2", 'train.path_high is "w4a4" there, "w2a2" was asked for'),
        ("train.iterations=10", "train.iterations is 9 there, 10 was asked for"),
        ("retrain.schedule=cosine", 'retrain.schedule is "linear" there'),
    ):
        with pytest.raises(RunError, match=message):
            plan_run("runs/mine", Options(assignments=(text,)))


def test_a_training_of_iterations_reports_fractional_epochs(command, tmp_path):
    """1,437 digits without search-val in batches of 512 give 2 steps per epoch."""
    given = ["--set", "train.iterations=5", "--set", "retrain.iterations=7", "--set", "train.batch_size=512"]
    given += ["--set", "train.path_sampler=cost-uniform", "--set", "train.path_low=1", "--set", "train.path_high=100K"]
    run = ["train", "digits-mixed", "--device", "cpu", "--out", str(tmp_path / "run"), *given]
    status, out, err = command(*run)
    assert status == 0, err
    assert "supernet: 5 of 5 steps" in err
    assert re.search(r"cost-uniform: \d of 10 bins hold no architecture and are left out: 1 to 10K", err)
    assert ": 2.5 epochs, loss " in out
    assert "along paths of sampler cost-uniform" in out
    assert command(*run, json=True)["epoch"] == 2.5
    command("report", str(tmp_path / "run"), json=True)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "The supernet is trained (2.5 epochs, " in page


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


def test_settings_that_no_model_depends_on_are_free(space):
    made(space)
    given = ("log=csv", "train.nonfinite=skip", "retrain.checkpoint_steps=9", "train.checkpoint_minutes=1")
    run = made(space, *given, "train.data_workers=1")
    again = open_existing("runs/mine").spec
    assert run.spec == again
    assert (again.log, again.train.nonfinite, again.retrain.checkpoint_steps) == (("csv",), "skip", 9)
    assert (again.train.checkpoint_minutes, again.train.data_workers, again.train.epochs) == (1.0, 1, 7)
    assert made(space, "log=[csv, tensorboard]").spec.log == ("csv", "tensorboard")
    with pytest.raises(RunError, match="train.epochs is 7 there, 8 was asked for"):
        made(space, "train.epochs=8", "log=csv")


def test_a_damaged_configuration_is_reported_and_can_be_restored(space, tmp_path):
    run = made(space, "train.epochs=3", seed=4)
    path = tmp_path / "runs/mine/config.yaml"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"seed: 4", b"seed: 5"))
    with pytest.raises(RunError, match=r"config\.yaml: is damaged or was changed: .*; delete it and repeat"):
        open_existing("runs/mine")
    path.unlink()
    with pytest.raises(RunError, match=r"no run directory \(no config.yaml\)"):
        open_existing("runs/mine")
    with pytest.raises(RunError, match=r"lost its config\.yaml, and this command would write another one"):
        made(space)
    assert made(space, "train.epochs=3", seed=4).spec == run.spec
    assert path.read_bytes() == whole


def test_a_run_that_another_command_changed_in_the_meantime_is_refused(space):
    plan = plan_run(space, Options())
    made(space, seed=3)
    with pytest.raises(RunError, match="was changed by another command in the meantime"), plan.open():
        pass
    assert open_existing("runs/mine").seed == 3


def test_a_folder_with_only_a_lock_is_accepted(space, tmp_path):
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine" / LOCK).write_text("")
    assert made(space).seed == 0


def test_configuration_is_resolved_and_readable(space, tmp_path):
    made(space, "train.epochs=3")
    config = yaml.safe_load((tmp_path / "runs/mine/config.yaml").read_text())
    assert config["format"] == 2
    assert config["space"]["train"]["epochs"] == 3
    assert config["space"]["retrain"]["lr"] == 0.1
    assert config["set"] == {"train": {"epochs": 3}}


def test_a_run_of_a_newer_format_is_refused(space, tmp_path):
    made(space)
    path = tmp_path / "runs/mine/config.yaml"
    store(path, path.read_bytes().replace(b"format: 2", b"format: 3"))
    with pytest.raises(RunError, match="format 3; this version reads format 2"):
        open_existing("runs/mine")


def test_an_existing_directory_takes_precedence_over_a_space(space):
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
        run.pick(None).require_model()


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
