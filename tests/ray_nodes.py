"""Ray nodes as processes of this machine, which tests can kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def kill_node(node: subprocess.Popen[bytes]) -> None:
    """Kills all processes of a node at once, as a power failure would."""
    for pid in descendants(node.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait()


@contextlib.contextmanager
def node(*arguments: str):
    """A Ray node of one CPU, as docs/scale.md starts one."""
    command = [str(Path(sys.executable).parent / "ray"), "start", *arguments, "--num-cpus", "1", "--block"]
    # The default of half a minute is not enough on a busy machine.
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "600"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_node(process)


def wait_for_nodes(address: str, count: int, *running: subprocess.Popen[bytes]) -> None:
    """Waits until `count` nodes are alive; asks in a new process, since this one may belong to another cluster."""
    code = (
        f"import ray; ray.init(address={address!r}, logging_level='ERROR', log_to_driver=False)\n"
        "print(sum(n['Alive'] for n in ray.nodes()))"
    )
    while True:
        assert all(node.poll() is None for node in running), "a node ended"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if int(done.stdout or 0) >= count:
            return
        time.sleep(1)
