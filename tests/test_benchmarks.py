"""Runs benchmarks in their smallest setting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spos_quant.quant.integers import integers_available

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_quantizers_run_on_fake_images():
    variants = "baseline,stock,lsq-midrise+ema+progressive"
    command = [sys.executable, str(ROOT / "benchmarks" / "cifar10_quantizers.py"), "--tiny", "--variants", variants]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["w2a2", name] for name in variants.split(",")]


@pytest.mark.slow
def test_interference_is_measured_and_resumed(tmp_path):
    script = ROOT / "benchmarks" / "cifar10_interference.py"
    options = ["--tiny", "--work", tmp_path, "--variants", "baseline,cost-uniform+first", "--workers", "2"]
    command = [sys.executable, str(script), *options]
    first, again = (subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert "cost-uniform+first" in first.stdout
    rows = [[line for line in done.stdout.splitlines() if not line.startswith("trained")] for done in (first, again)]
    assert rows[0] == rows[1], "what was measured is not measured again"


@pytest.mark.slow
def test_sums_of_latencies_are_compared_with_networks():
    command = [sys.executable, str(ROOT / "benchmarks" / "latency_sum.py"), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "off by" in done.stdout


@pytest.mark.slow
def test_a_whole_search_runs():
    command = [sys.executable, str(ROOT / "benchmarks" / "whole_search.py"), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "stock / ours" in done.stdout


@pytest.mark.slow
def test_recalibration_is_measured_and_resumed(tmp_path):
    train = [sys.executable, "-m", "spos_quant", "train", "digits-mixed", "--set", "train.iterations=3"]
    subprocess.run([*train, "--out", tmp_path / "run"], check=True, capture_output=True)
    options = [
        "--n",
        "2",
        "--amounts",
        "64,100000",  # more than there are: all
        "--batch",
        "64",
        "--images",
        "64",
        "--work",
        tmp_path / "work",
        "--tiny",
    ]
    command = [sys.executable, str(ROOT / "benchmarks" / "recalibration.py"), tmp_path / "run", *options]
    first, again = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first.endswith(again), "what was measured is not measured again"
    assert again.splitlines()[-1].startswith("images 1151, kendall ")
    assert again.splitlines()[-1].endswith("regret 0.0, mean_difference 0.0")


@pytest.mark.slow
@pytest.mark.skipif(not integers_available(), reason="needs VNNI and oneDNN")
def test_ranks_with_integer_arithmetic_are_compared(tmp_path):
    train = [sys.executable, "-m", "spos_quant", "train", "digits-mixed", "--set", "train.iterations=3"]
    subprocess.run([*train, "--out", tmp_path / "run"], check=True, capture_output=True)
    options = ["--n", "3", "--images", "64", "--recalibration", "32", "--tiny"]
    command = [sys.executable, str(ROOT / "benchmarks" / "int8_ranking.py"), tmp_path / "run", *options]
    stdout = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures = dict(line.split() for line in stdout.splitlines())
    assert figures.keys() >= {"kendall_top1", "changed_ranks", "ratio"}
    assert float(figures["mean_difference_top1"]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "expected"), [("prefix_cache", "of the time is left"), ("blocks", "to the power of")]
)
def test_scripts_run_in_their_smallest_setting(script, expected):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--tiny"]
    assert expected in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_freed_memory_is_compared():
    command = [sys.executable, str(ROOT / "benchmarks" / "freed_memory.py"), "--tiny"]
    stdout = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in stdout.splitlines()] == ["resnet20"] * 5 + ["resnet18"] * 5


def test_unknown_variants_are_named():
    command = [sys.executable, str(ROOT / "benchmarks" / "cifar10_quantizers.py"), "--tiny", "--variants", "lsq+emma"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown variant 'emma'; expected words of baseline, stock, lsq" in done.stderr


@pytest.mark.slow
def test_integer_files_agree_with_the_reference_on_a_test_split(tmp_path):
    ours = [sys.executable, "-m", "spos_quant"]
    train = [*ours, "train", "digits-mixed", "--out", tmp_path / "run", "--set", "train.iterations=2"]
    train += ["--set", "retrain.iterations=2"]
    subprocess.run(train, check=True, capture_output=True)
    retrain = [*ours, "retrain", tmp_path / "run", "--bits", "w2a2"]
    subprocess.run(retrain, check=True, capture_output=True)
    command = [sys.executable, str(ROOT / "benchmarks" / "integer_parity.py"), str(tmp_path / "run"), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [" 0 other labels" in line for line in done.stdout.splitlines()] == [True, True]


@pytest.mark.slow
def test_rankings_are_made_and_resumed(tmp_path):
    raw = {"name": "bits", "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 10, "data": "digits"}
    raw |= {"axes": {"bits": [[2, 4], [4, 4], [8, 8]]}, "train": {"iterations": 1}, "retrain": {"iterations": 1}}
    (tmp_path / "bits.yaml").write_text(json.dumps(raw))
    train = [sys.executable, "-m", "spos_quant", "train", tmp_path / "bits.yaml", "--out", tmp_path / "run"]
    subprocess.run(train, check=True, capture_output=True)
    options = ["--tiny", "--n", "4", "--steps", "1:2,2:1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "rankings.py"), tmp_path / "run", *options]
    first, again = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == again
    assert [line.split(" tau ")[0].strip() for line in first.splitlines()] == [
        "loss in the supernet",
        "accuracy in the supernet",
        "sum of sensitivities (gradient)",
        "loss in the supernet and sensitivities (gradient)",
        "sum of sensitivities (measured)",
        "loss in the supernet and sensitivities (measured)",
        "cost alone",
        "1 steps alone, seed 0",
        "1 steps alone, seed 1",
        "1 steps alone, seed 0 / 1 steps alone, seed 1",
        "1 steps alone, seed 0 / 2 steps alone, seed 0",
        "1 steps alone, seed 1 / 2 steps alone, seed 0",
    ]
