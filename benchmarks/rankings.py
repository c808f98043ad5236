"""Which judge orders architectures as training each alone does: rankings of several runs, side by side.

The rankings are made before, by the command itself, which can be stopped and repeated; this reads what they left.

    spos-quant rank RUN --n 16 --set rank.iterations=100
    python benchmarks/rankings.py RUN [RUN ...]
    python benchmarks/rankings.py RUN --tiny        # reads and prints, and writes no result
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import write_result

from spos_quant.report.text import JUDGES
from spos_quant.stages.plan import open_existing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory with a ranking")
    parser.add_argument("--tiny", action="store_true", help="whether it runs; nothing is written as a result")
    given = parser.parse_args()
    found = [ranking_of(path) for path in given.runs]
    for one in found:
        for judge, figures in one["judges"].items():
            print(f"{one['space']:24} {judge:40} tau {figures['kendall']}")
    if not given.tiny:
        write_result("rankings", {"rankings": found})


def ranking_of(path: Path) -> dict[str, Any]:
    """The figures of a run's ranking, with what they were made of."""
    run = open_existing(str(path))
    made = run.ranking()
    judges = {title: made["judges"][key] for key, title in JUDGES.items() if key in made["judges"]}
    return {
        "space": run.spec.name,
        "supernet_steps": run.spec.train.iterations,
        "n": len(made["rows"]),
        "seeds": len(made["seeds"]),
        "band": made["band"],
        "metric": made["metric"],
        "alone_steps": made["recipe"]["iterations"],
        "best_alone": max(row["alone_top1"] for row in made["rows"]),
        "judges": {**judges, "cost alone": made["by_cost"]},
        "ceiling": made["ceiling"],
    }


if __name__ == "__main__":
    main()
