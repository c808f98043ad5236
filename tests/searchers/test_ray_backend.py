"""Actors of a Ray cluster: the same answers in the same order as in this process, even if actors fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from ray_nodes import kill_node, node, wait_for_nodes
from test_worker_pool import MANY, StubEvaluator

from spos_quant.errors import ConfigError, DataError, RunError
from spos_quant.searchers.ray_backend import RayBackend, Share, check_address
from spos_quant.searchers.worker_pool import EvaluatorPool

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    """One cluster for all tests of this file, because starting it takes seconds."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # So that actors can import this file.
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield ray
        ray.shutdown()


def stub_evaluator(folder: Path, mode: str, number: int, gpu: bool) -> StubEvaluator:
    assert not gpu
    return StubEvaluator(folder, mode, number)


def actors(folder: Path, mode: str, workers: int, cpus: float = 1.0, gpus: float | None = None) -> EvaluatorPool:
    return EvaluatorPool(RayBackend(partial(stub_evaluator, folder, mode), "local", workers, cpus=cpus, gpus=gpus))


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_are_those_of_this_process_in_order(cluster, tmp_path, workers):
    expected = list(StubEvaluator(tmp_path, "", 0)(MANY))
    with actors(tmp_path, "", workers) as evaluate:
        assert list(evaluate(MANY)) == expected
        assert list(evaluate(MANY[:2])) == expected[:2]
        assert list(evaluate([])) == []
    assert len(list(tmp_path.glob("started-*"))) <= workers + 1  # each worker starts once, plus the one in this process


def test_an_actor_that_dies_is_replaced_and_its_work_done_again(cluster, tmp_path, capsys):
    with actors(tmp_path, "dies once", 2) as evaluate:
        assert list(evaluate(MANY)) == list(StubEvaluator(tmp_path, "", 0)(MANY))
    err = capsys.readouterr().err
    assert "a worker actor ended (ActorDiedError" in err
    assert "its evaluation is done again" in err


@pytest.mark.slow
def test_an_architecture_that_always_ends_its_actor_is_named(cluster, tmp_path):
    with actors(tmp_path, "dies always", 2) as evaluate, pytest.raises(RunError, match=r"\(5, 2\) ended its actor 3"):
        list(evaluate(MANY))


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("user error", DataError, "image 7.png cannot be read"),
        ("cannot start", DataError, "the data set is gone; mount it"),
        ("our error", RuntimeError, "a worker process failed: ZeroDivisionError: a fault of ours"),
    ],
)
def test_what_an_evaluator_raises_is_raised_here(cluster, tmp_path, mode, kind, message):
    with actors(tmp_path, mode, 2) as evaluate, pytest.raises(kind, match=message):
        list(evaluate(MANY))


def test_as_many_actors_as_the_cluster_has_room_for(cluster, tmp_path, capsys):
    assert actors(tmp_path, "", 0)._backend.size == 4
    assert actors(tmp_path, "", 0, cpus=1.5)._backend.size == 2
    assert actors(tmp_path, "", 3, cpus=2)._backend.size == 3
    assert "room for 2 of 3 actors that take 2 CPUs each; the others wait" in capsys.readouterr().err
    with actors(tmp_path, "", 3, cpus=2) as evaluate:  # two actors do all the work
        assert list(evaluate(MANY)) == list(StubEvaluator(tmp_path, "", 0)(MANY))


@pytest.mark.parametrize("share", [{"cpus": 5.0}, {"gpus": 1.0}])
def test_a_share_that_fits_on_no_node(cluster, tmp_path, share):
    with pytest.raises(ConfigError, match=r"no node of the cluster has .* for an evaluator; lower --set ray\.cpus"):
        actors(tmp_path, "", 2, **share)


def test_shares_of_a_node():
    assert Share(2, 0).fits({"CPU": 5.0}) == 2
    assert Share(1, 0.5).fits({"CPU": 16.0, "GPU": 4.0}) == 8
    assert Share(0.1, 0).fits({"CPU": 0.3}) == 3  # 0.3 / 0.1 is a little less than 3 in floating point
    assert Share(1, 1).fits({"CPU": 5.0}) == 0


@pytest.mark.slow
def test_the_sigterm_handler_is_kept(tmp_path):
    """Ray replaces the SIGTERM handler when it starts."""
    code = (
        "import signal, sys\nfrom spos_quant.searchers.ray_backend import _connect\nimport ray\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n_connect(ray, 'local', 1)\n"
        "sys.exit(signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN)\n"
    )
    pytest.importorskip("ray", reason="Ray is not installed")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"--ray 127\.0\.0\.1:1: no Ray cluster answers there .* ray start --head"),
        ("127.0.0.1:port", "no Ray cluster answers there"),
        ("nowhere", "expected local, auto, or an address such as"),
    ],
)
def test_addresses_without_a_cluster(address, message):
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(ConfigError, match=message):
        check_address(address)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("spos_quant.searchers.ray_backend.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'spos-quant\[ray\]'"):
        check_address("local")


@pytest.mark.slow
def test_a_local_cluster_ends_when_the_command_is_killed(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
        "from test_ray_backend import MANY, actors\n"
        "evaluate = actors(Path(sys.argv[1]), '', 1)\nlist(evaluate(MANY))\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, timeout=120, check=False, env=env)
    assert done.returncode == -signal.SIGKILL
    (started,) = tmp_path.glob("started-*")
    pid, end = int(started.name.split("-")[1]), time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "the actor outlived its driver"
        time.sleep(0.2)


def test_an_actor_killed_from_outside_is_replaced(cluster, tmp_path):
    """As the kernel does when memory runs out."""
    with actors(tmp_path, "", 2) as evaluate:
        answers = evaluate([(i, 1) for i in range(60)])
        got = [next(answers)]
        os.kill(int(next(tmp_path.glob("started-*")).name.split("-")[1]), signal.SIGKILL)
        got += answers
    assert [e.architecture for e in got] == [(i, 1) for i in range(60)]


def slow_evaluator(folder: Path, number: int, gpu: bool):
    made = StubEvaluator(folder, "", number)

    def evaluate(architectures):
        time.sleep(0.1)
        return made(architectures)

    return evaluate


@pytest.mark.slow
def test_a_node_killed_during_the_search(tmp_path, monkeypatch, capsys):
    """The remaining actor repeats its work; nothing waits for the replacement, which finds no room."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    many = [(i, 1) for i in range(300)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = "127.0.0.1", str(free.getsockname()[1])
    address = f"{host}:{port}"
    if ray.is_initialized():
        ray.shutdown()
    with node("--head", "--node-ip-address", host, "--port", port, "--include-dashboard", "false") as first:
        wait_for_nodes(address, 1, first)
        with node("--address", address) as second:
            wait_for_nodes(address, 2, first, second)
            with EvaluatorPool(
                RayBackend(partial(slow_evaluator, tmp_path), address, 0, cpus=1.0, gpus=None)
            ) as evaluate:
                assert evaluate._backend.size == 2
                answers = evaluate(many)
                got = [next(answers)]
                while len(list(tmp_path.glob("started-*"))) < 2:
                    got.append(next(answers))
                got += [next(answers) for _ in range(5)]
                kill_node(second)
                got += answers
    assert got == list(StubEvaluator(tmp_path, "", 0)(many))
    assert "a worker actor ended" in capsys.readouterr().err
