"""A search with evaluators on a Ray cluster writes the same files as one without."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_nodes import kill_node, node, wait_for_nodes
from stages_settings import BUDGET
from test_stage_faults import evaluations, kills, unsearched

pytestmark = pytest.mark.ray
SEARCH = ["search", "--bitops-budget", BUDGET]
LONGER = ["--set", "search.population=40", "--set", "search.generations=4", "--set", "search.crossover=15"]


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def fresh(tiny_run, tmp_path):
    """Makes copies of the finished run without search results."""

    def make(name: str) -> Path:
        shutil.copytree(tiny_run, tmp_path / name)
        unsearched(tmp_path / name)
        return tmp_path / name

    return make


def results(run: Path) -> dict[str, object]:
    """The files of the search, and the rows of its log."""
    found = {name: data for name, data in kills.contents(run).items() if name.startswith("results/")}
    return found | {"log": evaluations(run)}


def search(run: Path) -> list[str]:
    return [SEARCH[0], str(run), *SEARCH[1:]]


@pytest.mark.parametrize("actors", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_the_same_files_with_any_number_of_actors(command, cluster, fresh, actors):
    alone, together = fresh("alone"), fresh("together")
    assert command(*search(alone), json=True)["results"][0]["skipped"] is False
    found = command(*search(together), "--ray", "local", "--workers", actors, json=True)
    assert found["results"][0]["evaluations"] == 12
    assert results(together) == results(alone)


def test_reranking_runs_after_a_search_that_used_all_cpus(command, cluster, fresh):
    alone, together = fresh("alone"), fresh("together")
    some = ["--set", "search.max_images=64", "--set", "search.finalists=3"]
    command(*search(alone), *some, json=True)
    found = command(*search(together), *some, "--ray", "local", json=True)
    assert len(found["results"][0]["finalists"]) == 3
    assert results(together) == results(alone)


@pytest.mark.slow
def test_the_other_commands_that_evaluate(command, cluster, fresh):
    alone, together = fresh("alone"), fresh("together")
    for first, *rest in (
        ["sensitivity"],
        ["rank", "--n", "4", "--set", "rank.epochs=1"],
        ["bench", "--bits", "random:1,best", "--bitops-budget", BUDGET],
    ):
        for run, ray in ((alone, []), (together, ["--ray", "local", "--workers", "2"])):
            status, _, err = command(first, run, *rest, *ray)
            assert status == 0, err
    assert evaluations(alone) == evaluations(together)
    for name in ("sensitivity.json", "ranking.json"):
        assert (alone / name).read_text() == (together / name).read_text()


def spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "spos_quant", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def logged(run: Path) -> int:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{run / 'evaluations.sqlite'}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0])
    except sqlite3.Error:
        return 0


def until(process: subprocess.Popen[str], run: Path, count: int) -> None:
    """Waits until the log of a running search holds `count` evaluations."""
    while logged(run) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


@pytest.mark.slow
def test_a_lost_node_and_a_killed_driver_during_a_search(command, fresh):
    pytest.importorskip("ray", reason="Ray is not installed")
    alone, lost, killed = fresh("alone"), fresh("lost"), fresh("killed")
    command(*search(alone), *LONGER, json=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    with contextlib.ExitStack() as stack:
        head = ("--head", "--node-ip-address", host, "--port", port, "--include-dashboard", "false")
        first = stack.enter_context(node(*head))
        wait_for_nodes(address, 1, first)
        second = stack.enter_context(node("--address", address))
        wait_for_nodes(address, 2, first, second)
        driver = spawn(*search(killed), *LONGER, "--ray", address)
        until(driver, killed, 20)
        driver.kill()
        driver.wait()
        assert 20 <= logged(killed) < 150
        driver = spawn(*search(killed), *LONGER, "--ray", address)
        _, err = driver.communicate(timeout=7200)
        assert driver.returncode == 0, err
        assert results(killed) == results(alone)

        driver = spawn(*search(lost), *LONGER, "--ray", address)
        until(driver, lost, 20)
        kill_node(second)
        assert logged(lost) < 150
        _, err = driver.communicate(timeout=7200)
        assert driver.returncode == 0, err
        assert "a worker actor ended" in err
        assert results(lost) == results(alone)
