from __future__ import annotations

from dataclasses import replace

import pytest
from logger_reading import row_points

from spos_quant.errors import RunError
from spos_quant.loggers import open_loggers


def log_all(target, steps, add: float = 0.0) -> None:
    with open_loggers(("wandb",), target) as log:
        for step in steps:
            log.log({"loss": step + add}, step=step)


def test_a_run_is_opened_once_and_resumed_by_its_id(target, wandb_server):
    log_all(target(), range(2))
    log_all(target(1), range(1, 3))
    log_all(target(name="retrain"), range(2))
    first, again, other = wandb_server.inits
    assert first == again
    assert first.pop("id").startswith("digits-mixed-supernet-")
    assert first == {
        "project": "spos-quant",
        "name": "digits-mixed/supernet",
        "group": "digits-mixed",
        "config": {"seed": 1, "train": {"lr": 0.1, "clip": None}},
    }
    assert other["id"].startswith("digits-mixed-retrain-")
    assert other["name"] == "digits-mixed/retrain"


def test_the_project_can_be_chosen(target, wandb_server, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    log_all(target(), range(1))
    assert wandb_server.inits[0]["project"] == "mine"


def test_a_recreated_run_directory_is_a_new_run(target, wandb_server):
    log_all(target(), range(3))
    target().folder.rename(target().folder.with_name("old"))
    log_all(target(), range(3), add=100)
    old, new = wandb_server.runs.values()
    assert row_points(old, "loss") == {0: [0], 1: [1], 2: [2]}
    assert row_points(new, "loss") == {0: [100], 1: [101], 2: [102]}


def test_online_the_first_values_stay_and_steps_increase(target, wandb_server):
    log_all(target(), range(6))
    log_all(target(3), range(3, 8), add=100)
    expected = {step: [step] for step in range(6)} | {6: [106], 7: [107]}
    assert row_points(wandb_server.only_run(), "loss") == expected
    assert wandb_server.ignored == []


def test_steps_that_a_kill_lost_in_buffers_are_sent_again(target, wandb_server):
    log_all(target(), range(6))
    del wandb_server.only_run()[2:]
    log_all(target(5), range(5, 8), add=100)
    expected = {step: [step] for step in range(5)} | {step: [step + 100] for step in range(5, 8)}
    assert row_points(wandb_server.only_run(), "loss") == expected
    assert wandb_server.ignored == []


def test_offline_the_last_folder_is_complete(target, wandb_server):
    wandb_server.offline = True
    log_all(target(), range(6))
    log_all(target(3), range(3, 8), add=100)
    expected = {step: [step] for step in range(3)} | {step: [step + 100] for step in range(3, 8)}
    assert row_points(wandb_server.only_run(), "loss") == expected
    assert wandb_server.ignored == []


def test_a_refusal_is_explained(target, wandb_server):
    wandb_server.refuse = "No API key configured."
    with pytest.raises(
        RunError, match=r"log=wandb: .*\(No API key configured.\); log in with: wandb login, or set WAND"
    ):
        log_all(target(), range(2))


def test_long_names_give_valid_unique_ids(target, wandb_server):
    for name in ("x" * 400, "y" * 400):
        log_all(replace(target(name=name), run="r" * 400), range(2))
    assert len(wandb_server.runs) == 2


def test_a_folder_that_cannot_be_written_is_named(target, wandb_server):
    target().folder.mkdir()
    (target().folder / "wandb").write_text("")
    with pytest.raises(RunError, match=r"logs/wandb/supernet.csv: cannot be"):
        log_all(target(), range(2))
