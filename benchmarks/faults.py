"""Injects every fault of the table in docs/reliability.md except SIGKILL (see kills.py) into a small main job.

    python benchmarks/faults.py --seed 0

A fault is *survived* if the repeated command (after deleting the files that an error named, if any) ends with the same
files as an undisturbed run, compared byte by byte; *lost* counts the files that differ.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from common import write_result
from kills import JOB, contents, differences

from spos_quant.cli import run as command
from spos_quant.run_dir import files

DAMAGED = ("config.yaml", "environment.json", "supernet.safetensors", "evaluations.sqlite", "results/bitops-*/*")


@dataclass
class Row:
    """One row of the table."""

    fault: str
    injected: int = 0
    refused: int = 0
    """Faults that ended with exit status 2 or 130 and a message; the others changed nothing that is read."""
    lost: list[str] = field(default_factory=list)
    slowest_seconds: float | None = None


def quiet(*arguments: str) -> tuple[int, str]:
    """Runs a command in this process; returns its exit status and stderr."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        status = command(list(arguments))
    if status not in (0, 2) or "Traceback" in stderr.getvalue():
        raise SystemExit(f"{arguments} ended with {status}:\n{stderr.getvalue()[-2000:]}")
    return status, stderr.getvalue()


@contextlib.contextmanager
def disk_of(writes: int) -> Iterator[None]:
    """Simulates a full disk: write number `writes + 1` fails halfway."""
    real, left = files._write, writes

    def write(handle: int, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.write(handle, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, data)

    files._write = write
    try:
        yield
    finally:
        files._write = real


def full_disk(reference: dict[str, object], _rng: np.random.Generator) -> Row:
    """Repeats the job with a disk that fails after 0 to 13 writes, cycling, until it finishes."""
    row = Row("disk full in the middle of a write")
    attempt = 0
    while True:
        with disk_of(attempt % 14):  # a search needs nine consecutive writes to finish
            status, err = quiet(*JOB)
        attempt += 1
        if status == 0:
            break
        assert "No space left on device" in err, err
        row.injected += 1
        row.refused += 1
    row.lost = differences(reference, Path("run"))
    return row


def damage(reference: dict[str, object], rng: np.random.Generator, how: str, each: int) -> Row:
    """Flips a bit or truncates, `each` times per artifact of a finished run; then runs all readers and the job."""
    row = Row({"flip": "one byte flipped in an artifact", "cut": "an artifact cut off"}[how])
    artifacts = [p for pattern in DAMAGED for p in sorted(Path("finished").glob(pattern))]
    for artifact in artifacts:
        for _ in range(each):
            shutil.rmtree("run", ignore_errors=True)
            shutil.copytree("finished", "run")
            path = Path("run") / artifact.relative_to("finished")
            data = bytearray(path.read_bytes())
            position = int(rng.integers(len(data)))
            if how == "flip":
                data[position] ^= 1 << int(rng.integers(8))
            else:
                del data[position:]
            path.write_bytes(data)
            row.injected += 1
            row.refused += repaired()
            # A deleted list of checksums afterwards lists only new files.
            row.lost += [n for n in differences(reference, Path("run")) if not n.endswith("checksums.sha256")]
    return row


def repaired() -> bool:
    """Runs all readers, deletes the files that errors name, and repeats; returns whether anything was refused."""
    readers = [["report", "run"], ["verify", "run", "--result", "bitops-2.2M"], list(JOB)]
    refused = False
    for _ in range(8):
        results = [quiet(*arguments) for arguments in readers]
        named = {m[1] for status, err in results if status == 2 for m in [re.search(r"error: (run/[^:]+): ", err)] if m}
        if all(status == 0 for status, _ in results):
            return refused
        refused = True
        if not named and not Path("run/config.yaml").exists():
            named = set()  # the job writes it again
        for name in named:
            Path(name).unlink(missing_ok=True)
            for side in ("-wal", "-shm"):
                Path(name + side).unlink(missing_ok=True)
        quiet(*JOB)
    raise SystemExit(f"not repaired: {results}")


def dying_workers(reference: dict[str, object], rng: np.random.Generator, kills: int) -> Row:
    """Sends SIGKILL to random evaluator processes during a search with two workers."""
    row = Row("an evaluator process killed")
    while row.injected < kills:
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("finished", "run")
        shutil.rmtree("run/results/bitops-2.2M")
        Path("run/evaluations.sqlite").unlink()
        process = subprocess.Popen(
            [sys.executable, "-m", "spos_quant", *JOB, "--workers", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        left = 2  # an evaluation is abandoned, as intended, if its process dies three times
        while process.poll() is None:
            time.sleep(rng.uniform(0.5, 8))
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
            workers = [int(pid) for pid in children.stdout.split() if spawned(int(pid))]
            if workers and left and row.injected < kills:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(rng.choice(workers)), signal.SIGKILL)
                    row.injected += 1
                    left -= 1
        assert process.stderr is not None
        if process.returncode:
            raise SystemExit(process.stderr.read())
        row.lost += differences(reference, Path("run"))
    return row


def spawned(pid: int) -> bool:
    """Whether a process is a worker of multiprocessing, not its resource tracker."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def interrupts(reference: dict[str, object], rng: np.random.Generator, count: int) -> Row:
    """Sends SIGINT or SIGTERM at random moments over all stages; repeats the command until it finishes."""
    row = Row("Ctrl-C or SIGTERM", slowest_seconds=0.0)
    shutil.rmtree("run", ignore_errors=True)
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "spos_quant", *JOB], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        timer, pressed = None, []
        if row.injected < count:

            def press(process: subprocess.Popen[str] = process, pressed: list[float] = pressed) -> None:
                pressed.append(time.monotonic())
                process.send_signal(signal.SIGINT if len(pressed) % 2 else signal.SIGTERM)

            timer = threading.Timer(rng.uniform(4, 20), press)
            timer.start()
        _, err = process.communicate()
        if timer is not None:
            timer.cancel()
        if process.returncode == 0:
            row.lost += differences(reference, Path("run"))
            if row.injected >= count:
                return row
            shutil.rmtree("run")
            continue
        assert process.returncode == 130, err
        assert "go on with: spos-quant" in err, err
        row.slowest_seconds = max(row.slowest_seconds or 0.0, time.monotonic() - pressed[0])
        row.injected += 1
        row.refused += 1


def second_process(reference: dict[str, object], _rng: np.random.Generator) -> Row:
    """Starts other commands in a run directory that a process is using."""
    row = Row("a second process in the same run")
    shutil.rmtree("run", ignore_errors=True)
    owner = subprocess.Popen(
        [sys.executable, "-m", "spos_quant", *JOB], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not Path("run/config.yaml").exists():
        time.sleep(0.1)
    for arguments in (
        list(JOB),
        ["train", "run"],
        ["retrain", "run", "--bits", "w4a4"],
        ["search", "run", "--bitops-budget", "50%"],
    ):
        status, err = quiet(*arguments)
        row.injected += 1
        row.refused += status == 2 and f"is in use by process {owner.pid}" in err
    owner.wait()
    row.lost = differences(reference, Path("run"))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=2, help="flips and truncations per artifact")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        quiet(*JOB)
        reference = contents(Path("run"))
        shutil.move("run", "finished")
        rows = []
        for make in (
            lambda: full_disk(reference, rng),
            lambda: damage(reference, rng, "flip", given.each),
            lambda: damage(reference, rng, "cut", given.each),
            lambda: dying_workers(reference, rng, 6),
            lambda: interrupts(reference, rng, 8),
            lambda: second_process(reference, rng),
        ):
            rows.append(make())
            row = rows[-1]
            print(f"| {row.fault} | {row.injected} | {row.refused} | {len(row.lost)} |", flush=True)
        os.chdir(here)
    result = {"seed": given.seed, "each": given.each, "rows": [asdict(row) for row in rows]}
    print(json.dumps(result, indent=1))
    write_result("faults", result)
    raise SystemExit(any(row.lost for row in rows))


if __name__ == "__main__":
    main()
