"""Distributed trainings end with equal weights after kills and restarts, and with a launcher per machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spos_quant.cli import run as run_command
from spos_quant.stages import distributed

SHORT = [*("--set", "train.iterations=12"), *("--set", "train.checkpoint_steps=3"), *("--device", "cpu")]
TWO = ["--set", "train.devices=2"]
MACHINES = ["--set", "train.num_nodes=2"]
HOURS = 7200.0
"""Timeout in seconds of a process that hangs."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """The supernet that two ranks on one machine train."""
    run = tmp_path_factory.mktemp("ranks") / "run"
    assert run_command(["train", "digits-mixed", "--out", str(run), *SHORT, *TWO, "--json"]) == 0
    return (run / "supernet.safetensors").read_bytes()


def ranks_of(run: Path) -> dict[int, int]:
    """The processes that train in a run, by their rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, KeyError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if str(run).encode() in command and b"spos_quant.stages.distributed" in command:
                pairs = [item.partition(b"=") for item in (folder / "environ").read_bytes().split(b"\0")]
                found[int({name: value for name, _, value in pairs}[b"RANK"])] = int(folder.name)
    return found


def kill_a_rank(run: Path, number: int) -> None:
    """Kills a rank in the middle of the training."""
    end = time.monotonic() + HOURS
    while not (run / "checkpoint.safetensors").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(ranks_of(run)[number], signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_rank_ends_the_command_and_a_repeated_command_resumes(tmp_path, undisturbed):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "spos_quant", "train", "digits-mixed", "--out", str(run), *SHORT, *TWO]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    kill_a_rank(run, 1)
    _, err = process.communicate(timeout=HOURS)
    assert process.returncode == 2
    assert "training on 2 devices failed (see above); repeat the command to resume from the last checkpoint" in err
    assert "Traceback" not in err
    assert not (run / "supernet.safetensors").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (run / "supernet.safetensors").read_bytes() == undisturbed


@pytest.mark.slow
def test_an_interrupt_stops_all_ranks_after_the_same_step(tmp_path, undisturbed):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "spos_quant", "train", "digits-mixed", "--out", str(run), *SHORT, *TWO]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (run / "checkpoint.safetensors").exists():
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate(timeout=HOURS)
    assert process.returncode == 130
    assert "go on with: spos-quant train digits-mixed" in err
    while ranks_of(run):  # the launcher ends them
        time.sleep(0.1)
    assert not (run / "supernet.safetensors").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (run / "supernet.safetensors").read_bytes() == undisturbed


def launcher(run: Path, port: int) -> subprocess.Popen[str]:
    """Starts the launcher of one of two machines, as in docs/scale.md."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--max-restarts", "5"]
    command = [*torchrun, "-m", "spos_quant.stages.distributed", str(run), "supernet", "cpu"]
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [None, 0, 1])
def test_a_launcher_on_each_of_two_machines(tmp_path, capsys, monkeypatch, undisturbed, killed):
    """Both machines are this one. torchrun restarts a killed rank together with all others."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = tmp_path / "run"
    command = ["train", "digits-mixed", "--out", str(run), *SHORT, *MACHINES]
    assert run_command(command) == 2
    message = capsys.readouterr().err
    assert (
        "start this on each machine: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nnodes 2 --nproc-per-node 1"
        in message
    )
    assert f"-m spos_quant.stages.distributed {run} supernet; then repeat this command" in message
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launchers = [launcher(run, port) for _ in range(2)]
    if killed is not None:
        kill_a_rank(run, killed)
    for process in launchers:
        _, err = process.communicate(timeout=HOURS)
        assert process.returncode == 0, err[-3000:]
    assert (run / "supernet.safetensors").read_bytes() == undisturbed
    assert run_command([*command, "--json"]) == 0  # nothing is left to do
    assert '"skipped": true' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rank", "machines", "own_store", "warned"),
    [("0", "2", None, True), ("0", "2", "1", False), ("1", "2", None, False), ("0", "1", None, False)],
)
def test_the_first_rank_of_several_machines_warns_of_a_shared_store(
    monkeypatch, capsys, rank, machines, own_store, warned
):
    environment = {"RANK": rank, "GROUP_WORLD_SIZE": machines, "SPOS_QUANT_OWNED": "1"}
    if own_store is not None:
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = own_store
    else:
        monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    trained = []
    monkeypatch.setattr(distributed, "open_existing", lambda path: path)
    monkeypatch.setattr(distributed, "train_in_process", lambda run, **_: trained.append(run))
    distributed._train("run", "supernet", "cpu")
    assert trained == ["run"]
    assert ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in capsys.readouterr().err) is warned


def test_an_uneven_batch_is_an_error_before_any_rank_starts(tmp_path, capsys):
    arguments = ["train", "digits-mixed", "--out", str(tmp_path / "run"), "--set", "train.devices=3", *SHORT]
    assert run_command([*arguments, "--set", "train.batch_size=64"]) == 2
    assert "a batch of 64 images cannot be shared evenly by 3 ranks" in capsys.readouterr().err
