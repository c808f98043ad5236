"""Errors of latency sums over layers against whole networks in onnxruntime.

    python benchmarks/latency_sum.py                # some minutes on an idle machine
    python benchmarks/latency_sum.py --tiny         # smoke test

For each space, `spos-quant latency` times its layers and random whole networks. Each network's latency is predicted as
the sum of its layers plus the constant (`rest`) fitted on the other networks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write_result

from spos_quant.backbones.build import load_spec
from spos_quant.cost.latency import read_latency_csv
from spos_quant.searchers.rank_correlation import kendall
from spos_quant.stages.latency import latency_run
from spos_quant.stages.run import Run

SPACES = "resnet20-mixed,resnet20-joint,digits-blocks,mobilenetv2-mixed,resnet18-mixed"


def one(name: str, networks: int, threads: int) -> dict[str, Any]:
    """A row of the result: the command's figures and its duration."""
    with tempfile.TemporaryDirectory() as folder:
        start, run = time.perf_counter(), Run(Path(folder), load_spec(name), "fake", 0)
        found = latency_run(run, threads=threads, networks=networks, show=False)
        seconds = time.perf_counter() - start
        table = read_latency_csv(run.latency_path)
        bare = Run(Path(folder), load_spec(name), "fake", 0).table
        architectures = [bare.space.decode(text) for text in table.networks]
        sums = bare.totals(architectures, "latency").tolist()
    kept = ("source", "layers", "networks", "rest", "cheapest", "dearest", "error")
    order = kendall(sums, list(table.networks.values()))
    return {"space": name, **{key: found[key] for key in kept}, "kendall": order, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default=SPACES, help="comma-separated [%(default)s]")
    parser.add_argument("--n", type=int, default=20, help="whole networks per space")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--tiny", action="store_true", help="smoke test: one small space, two networks; nothing is written"
    )
    given = parser.parse_args()
    if given.tiny:
        given.spaces, given.n = "digits-blocks", 2
    rows = []
    for name in given.spaces.split(","):
        rows.append(one(name, given.n, given.threads))
        row, error = rows[-1], rows[-1]["error"]
        print(
            f"{name:18} {row['layers']:5,} layers, {row['cheapest'] / 1e6:8.3f} to {row['dearest'] / 1e6:8.3f} ms; "
            f"off by {error['mean']:.1%} on average, {error['largest']:.1%} at most; Kendall tau {row['kendall']:.2f}; "
            f"{row['seconds']:.0f} s",
            flush=True,
        )
        if not given.tiny:
            write_result("latency_sum", {"threads": given.threads, "load_average": os.getloadavg()[0], "rows": rows})


if __name__ == "__main__":
    main()
