from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from logger_reading import tensorboard_points
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spos_quant.errors import RunError
from spos_quant.loggers import LogTarget, open_loggers
from spos_quant.loggers import tensorboard as logger_module


def log_all(target, steps, add: float = 0.0) -> None:
    with open_loggers(("tensorboard",), target) as log:
        for step in steps:
            log.log({"loss": step + add, "val/top1": 0.5}, step=step)


def folder(target, name: str = "supernet") -> Path:
    return target.folder / "tensorboard" / name


def loss(target) -> dict[int, list[float]]:
    return tensorboard_points(folder(target), "loss")


def test_event_files_hold_every_value(target):
    log_all(target(), range(5))
    assert loss(target()) == {step: [step] for step in range(5)}
    assert tensorboard_points(folder(target()), "val/top1") == {step: [0.5] for step in range(5)}


def test_values_are_written_before_closing(target):
    log = open_loggers(("tensorboard",), target())
    for step in range(3):
        log.log({"loss": float(step)}, step=step)
        assert loss(target()) == {s: [s] for s in range(step + 1)}
    log.close()


@pytest.mark.parametrize("from_step", [0, 3, 5])
def test_resuming_shows_each_step_once_as_logged_last(from_step, target):
    log_all(target(), range(5))
    log_all(target(from_step), range(from_step, 8), add=100)
    kept = {step: [step] for step in range(from_step)}
    assert loss(target()) == kept | {step: [step + 100] for step in range(from_step, 8)}


def test_resuming_hides_later_steps_immediately(target):
    log_all(target(), range(9))
    log_all(target(4), [])
    assert loss(target()) == {step: [step] for step in range(4)}


def test_many_quick_restarts_keep_their_order(target):
    """All restarts are within a second or two, so the timestamps in file names do not give the order."""
    for start in range(12):
        log_all(target(start), range(start, start + 3), add=1000 * start)
    expected = {step: [step + 1000 * step] for step in range(12)}
    assert loss(target()) == expected | {12: [12 + 11000], 13: [13 + 11000]}


def test_a_clock_that_goes_back_changes_nothing(target):
    log_all(target(), range(5))
    (file,) = folder(target()).iterdir()
    later = int(time.time()) + 3600
    file.rename(file.with_name(f"events.out.tfevents.{later:010d}.elsewhere.1.0"))
    log_all(target(3), range(3, 6), add=100)
    assert loss(target()) == {0: [0], 1: [1], 2: [2], 3: [103], 4: [104], 5: [105]}


def test_files_are_renamed_only_if_necessary(target, monkeypatch):
    log_all(target(), range(5))
    (before,) = [path.name for path in folder(target()).iterdir()]
    now = time.time()
    monkeypatch.setattr(logger_module.time, "time", lambda: now + 2)  # tensorboard reads it too
    log_all(target(3), range(3, 6))
    names = sorted(path.name for path in folder(target()).iterdir())
    assert len(names) == 2
    assert names[0] == before


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_torn_event_file_does_not_hide_the_next(cut, target):
    log_all(target(), range(5))
    (file,) = folder(target()).iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    log_all(target(3), range(3, 6), add=100)
    assert loss(target()) == {0: [0], 1: [1], 2: [2], 3: [103], 4: [104], 5: [105]}


def test_values_that_are_not_finite_are_logged(target):
    with open_loggers(("tensorboard",), target()) as log:
        log.log({"loss": math.nan, "top1": math.inf}, step=0)
        log.log({"loss": 1.0, "top1": -math.inf}, step=1)
    points = loss(target())
    assert math.isnan(points[0][0])
    assert points[1] == [1.0]
    assert tensorboard_points(folder(target()), "top1") == {0: [math.inf], 1: [-math.inf]}


def test_the_settings_are_shown_once(target):
    log_all(target(), range(3))
    log_all(target(2), range(2, 4))
    events = EventAccumulator(str(folder(target())))
    events.Reload()
    (shown,) = events.Tensors("config/text_summary")
    (shown_text,) = shown.tensor_proto.string_val
    assert b'"lr": 0.1' in shown_text
    assert shown.step == 0


def test_no_name_leads_out_of_the_folder(target, tmp_path):
    log_all(target(name="../../out"), range(2))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].parent.parent == target().folder / "tensorboard"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/logs/tensorboard/x: cannot be written"):
        open_loggers(("tensorboard",), LogTarget(tmp_path / "file" / "logs", "r", "x"))
