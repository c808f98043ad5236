"""Does the searched architecture beat the uniform one of equal or more BitOps with the same recipe?

Runs the main job on the handwritten digits with several seeds and compares retrained models on search-val and test.

    python benchmarks/digits_search_vs_uniform.py --seeds 3 --budget 4M     # about two minutes per seed on 2 cores
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="4M")
    parser.add_argument("--tiny", action="store_true", help="smoke test: two epochs")
    given = parser.parse_args()
    tiny = ["train.epochs=2", "retrain.epochs=1", "search.generations=1", "search.population=4"] if given.tiny else []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            rows += one_seed(seed, given.budget, Path(folder) / str(seed), tiny)
    print(f"{'model':10} {'BitOps':>12} {'search-val':>18} {'test':>18}   ({given.seeds} seeds, mean and deviation)")
    figures = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        figures[model] = {key: summary([row[f"{key}_top1"] for row in mine]) for key in ("search_val", "test")}
        bitops = sorted(row["bitops"] or 0 for row in mine)[len(mine) // 2]
        parts = [
            f"{100 * figures[model][k]['mean']:8.2f} +- {100 * figures[model][k]['std']:.2f} %" for k in figures[model]
        ]
        print(f"{model:10} {bitops:12,} {parts[0]:>18} {parts[1]:>18}")
    if not given.tiny:
        write_result(
            f"digits_search_vs_uniform-{given.budget}", {"budget": given.budget, "summary": figures, "rows": rows}
        )


def one_seed(seed: int, budget: str, out: Path, assignments: list[str]) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "spos_quant", "run", "digits-mixed", "--bitops-budget", budget]
    command += ["--seed", str(seed), "--out", str(out), "--json", *(a for s in assignments for a in ("--set", s))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["rows"]
    for row in rows:
        row["seed"] = seed
        # The uniform baseline is selected by the winner's BitOps, so its bits may differ between seeds.
        row["model"] = "uniform" if row["model"].startswith("w") else row["model"]
    return list(rows)


def summary(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


if __name__ == "__main__":
    main()
