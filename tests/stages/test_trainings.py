"""Trainings in worker processes: their devices and threads."""

from __future__ import annotations

import os

import pytest
import torch

from spos_quant.stages import trainings


@pytest.mark.parametrize(
    ("named", "number", "expected"),
    [("2,3", 0, "2"), ("2, 3", 3, "3"), ("GPU-a,GPU-b", 1, "GPU-b"), ("5", 1, "5"), ("", 1, ""), (None, 1, "1")],
)
def test_workers_are_assigned_to_the_devices_round_robin(monkeypatch, tmp_path, named, number, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named or "")  # restored after the test
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(trainings, "open_existing", lambda path: None)
    before = torch.get_num_threads()
    trainings.make_trainer(tmp_path, "auto", before, number)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    assert torch.get_num_threads() == before


def test_more_threads_than_cpus_are_reported(monkeypatch, capfd):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    trainings._warn_of_threads(2)
    assert capfd.readouterr().err == ""
    trainings._warn_of_threads(4)
    assert "4 trainings of 4 threads each share 8 CPUs" in (err := capfd.readouterr().err)
    assert "OMP_NUM_THREADS=2" in err
