"""Kills the main job by SIGKILL at random moments of all stages; the repeated job must give the same result.

    python benchmarks/kills.py --kills 30 --seed 0

Every attempt runs the same command in a process that kills itself some seconds after its first write, or just before
its n-th write, rename or deletion in the run directory. Every finished run is compared, file by file, with a run that
was never killed; runs repeat until all kills are done. The seed determines the moments; the stage at which a moment in
seconds falls depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from common import write_result

JOB = [
    *("run", "digits-mixed", "--bitops-budget", "2.2M", "--out", "run"),
    *("--set", "train.epochs=4", "--set", "retrain.epochs=3", "--set", "search.population=8"),
    *("--set", "search.generations=3", "--set", "search.crossover=3", "--set", "search.mutation=3"),
    *("--set", "search.recalibration_images=128"),
    *("--set", "train.checkpoint_steps=5", "--set", "retrain.checkpoint_steps=5"),
]
# Runs the command line, counts file operations below a folder, and kills itself at the given moment.
VICTIM = """
import os, signal, sys, threading
folder, kind, amount, *arguments = sys.argv[1:]
count = 0
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def hook(event, args):
    global count
    if event not in ("open", "os.rename", "os.remove") or not isinstance(args[0], str) or folder not in args[0]:
        return
    if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return
    count += 1
    if kind == "seconds" and count == 1:
        timer = threading.Timer(float(amount), kill)
        timer.daemon = True
        timer.start()
    if kind == "writes" and count >= int(amount):
        kill()
sys.addaudithook(hook)
if __name__ == "__main__":
    from spos_quant.cli import main
    main(arguments)
"""
IGNORED = {"run.lock", "report.html", "checkpoint.safetensors", "evaluations.sqlite-wal", "evaluations.sqlite-shm"}


def moment(rng: np.random.Generator) -> tuple[str, str]:
    """The moment of the next kill: seconds after the first write, or a number of writes."""
    if rng.random() < 0.5:
        return "seconds", f"{rng.uniform(0, 7):.2f}"
    return "writes", str(int(rng.integers(1, 160)))


def attempt(job: list[str], cwd: Path, when: tuple[str, str]) -> tuple[bool, str]:
    """Runs the job until it ends or is killed; returns whether it was killed, and its stage."""
    victim = cwd / "victim.py"
    victim.write_text(VICTIM, "utf-8")
    folder = job[job.index("--out") + 1]
    done = subprocess.run(
        [sys.executable, victim, folder + os.sep, *when, *job], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the repeated command failed with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.returncode != 0, stage(cwd / folder)


def stage(run: Path) -> str:
    """The current stage of a run, from its artifacts."""
    if not (run / "config.yaml").exists():
        return "opening"
    if not (run / "supernet.safetensors").exists():
        return "train"
    if not any(run.glob("results/bitops-*/search.json")):
        return "search"
    if any(not (path / "model.safetensors").exists() for path in run.glob("results/*")):
        return "retrain"
    return "evaluate, export, report"


def contents(run: Path) -> dict[str, object]:
    """The comparable contents of a run: files as bytes, the evaluations as rows."""
    found: dict[str, object] = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.name not in IGNORED):
        name = str(path.relative_to(run))
        if path.suffix == ".sqlite":
            with sqlite3.connect(path) as db:
                found[name] = db.execute("SELECT * FROM evaluations ORDER BY id").fetchall()
        elif name == "report.json":
            found[name] = {k: v for k, v in json.loads(path.read_text("utf-8")).items() if k != "commands"}
        elif name == "checksums.sha256":
            found[name] = [line for line in path.read_text("utf-8").splitlines() if line[:1] != "#"]
        else:
            found[name] = path.read_bytes()
    return found


def differences(reference: dict[str, object], run: Path) -> list[str]:
    """The names of files that differ from a run that was never killed."""
    found = contents(run)
    return sorted(name for name in reference.keys() | found.keys() if reference.get(name) != found.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    with tempfile.TemporaryDirectory() as temporary:
        cwd = Path(temporary)
        attempt(JOB, cwd, ("writes", "1000000"))
        reference = contents(cwd / "run")
        shutil.rmtree(cwd / "run")
        kills, runs, lost = Counter[str](), 0, []
        while True:
            spent = kills.total() >= given.kills
            job = [*JOB, "--workers", str(int(rng.integers(0, 2)))]
            killed, where = attempt(job, cwd, ("writes", "1000000") if spent else moment(rng))
            if killed:
                kills[where] += 1
                print(f"kill {kills.total()}: {where}", flush=True)
                continue
            runs += 1
            lost += differences(reference, cwd / "run")
            print(f"run {runs} is finished; differences: {lost or 'none'}", flush=True)
            if spent:
                break
            shutil.rmtree(cwd / "run")
    result = {
        "seed": given.seed,
        "kills": kills.total(),
        "stages": dict(sorted(kills.items())),
        "finished_runs": runs,
        "files_compared": len(reference),
        "differences": lost,
    }
    print(json.dumps(result, indent=1))
    write_result("kills", result)
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    main()
