"""Time and peak memory with freed memory kept (`train.allocation`): evaluation passes and training steps.

    python benchmarks/freed_memory.py       # two minutes

The setting of glibc's malloc holds for a whole process, so processes with and without it alternate; figures are medians
of the processes' medians. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import write_result
from networks import CASES, images, network, supernet_of
from torch import Tensor, nn

from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.switch import cached_weights
from spos_quant.train.allocation import keep_freed_memory

ROUNDS, PASSES = 3, 9


def passes(case: str, tiny: bool) -> dict[str, Callable[[], None]]:
    """The timed functions, by name."""
    x, plain = images(case, tiny), network(case, "float")
    supernet = supernet_of(case).to(memory_format=torch.channels_last)
    layers = [layer for layer, *_ in supernet.quantized_layers()]

    def candidate() -> None:
        with torch.no_grad(), cached_weights(layers):
            supernet.eval()(x)

    def float_pass() -> None:
        with torch.no_grad():
            plain.eval()(x)

    return {
        "float pass": float_pass,
        "candidate's pass": candidate,
        "float step": lambda: step(plain, x),
        "supernet's step": lambda: step(supernet, x),
    }


def step(model: nn.Module, x: Tensor) -> None:
    model.train()
    model.zero_grad()
    F.cross_entropy(model(x), torch.zeros(len(x), dtype=torch.long)).backward()


def child(case: str, kept: bool, tiny: bool) -> None:
    """Prints median seconds and the peak memory of this process in MB."""
    torch.set_num_threads(1)
    if kept:
        assert keep_freed_memory(), "this C library has no mallopt, or the environment sets it"
    found = {}
    with compiled_kernels(not tiny):
        for name, call in passes(case, tiny).items():
            times = []
            for _ in range(2 if tiny else PASSES):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            found[name] = statistics.median(times[1:])
    print(json.dumps({**found, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measured(case: str, tiny: bool) -> dict[str, dict[str, float]]:
    """Medians with freed memory kept and returned to the system."""
    settings: dict[str, list[dict[str, float]]] = {"given back": [], "kept": []}
    for _ in range(1 if tiny else ROUNDS):
        for setting, found in settings.items():
            command = [sys.executable, __file__, "--child", case, *(["--kept"] if setting == "kept" else [])]
            done = subprocess.run([*command, *(["--tiny"] if tiny else [])], capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        setting: {key: statistics.median(f[key] for f in found) for key in found[0]}
        for setting, found in settings.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="smoke test; nothing is written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.kept, given.tiny)
        return
    rows: list[dict[str, Any]] = []
    for case in CASES:
        settings = measured(case, given.tiny)
        for name, value in settings["given back"].items():
            rows.append({"case": case, "what": name, "given_back": value, "kept": settings["kept"][name]})
            unit = "" if name == "MB" else " s"
            print(
                f"{case} {name:17} {value:9.3f}{unit} given back, {settings['kept'][name]:9.3f}{unit} kept", flush=True
            )
    if not given.tiny:
        write_result("freed_memory", {"threads": 1, "load": os.getloadavg()[0], "rows": rows})


if __name__ == "__main__":
    main()
