"""Runs the walk-through of CONTRIBUTING.md in a temporary folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
JOB = """
from spos_quant.cli import run
settings = ["train.iterations=3", "retrain.iterations=3", "search.population=3", "search.generations=1"]
options = [part for setting in settings for part in ("--set", setting)]
raise SystemExit(run(["run", "small.yaml", "--bitops-budget", "w2a2", "--out", "made", "--json", *options]))
"""


def installed(folder: Path, entry: str) -> dict[str, str]:
    """An environment in which a package with this entry point is installed: what an installer writes for it."""
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spos_quant.plugins]\n" + entry.replace('"', "") + "\n")
    path = os.pathsep.join(filter(None, [str(folder), str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache")}


def test_a_new_operator_and_a_new_backbone(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## A new operator")[2].partition("## A new cost")[0]
    plugin, entry, space, checks = (m[2] for m in re.finditer(r"```(python|toml|yaml)\n(.*?)```", text, re.DOTALL))
    (tmp_path / "my_plugin.py").write_text(plugin)
    (tmp_path / "small.yaml").write_text(space)
    group, line = entry.strip().splitlines()
    assert group == '[project.entry-points."spos_quant.plugins"]'
    environment = installed(tmp_path, line)
    done = subprocess.run(
        [sys.executable, "-c", checks + JOB],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert all(row["agreement"] == 1.0 for row in found["rows"])
    searched = next(row for row in found["rows"] if row["key"] == "bitops-w2a2")
    uniform = next(row for row in found["rows"] if row["key"] == "bits-w2a2")
    assert searched["bitops"] <= uniform["bitops"]


METRIC_JOB = """
import json
from contextlib import redirect_stdout
from io import StringIO
from spos_quant.cli import run

def output(*words):
    out = StringIO()
    with redirect_stdout(out):
        assert run([*words]) == 0
    return out.getvalue()

small = ["train.iterations=3", "retrain.iterations=3", "search.population=4", "search.generations=1"]
options = [part for setting in small for part in ("--set", setting)]
made = {
    "help": output("search", "--help"),
    "dry": output("run", "digits-mixed", "--energy-budget", "2uJ", "--out", "dry", "--dry-run"),
    "run": json.loads(output("run", "digits-mixed", "--energy-budget", "1.5uJ", "--out", "made", *options, "--json")),
    "bench": output("bench", "made", "--bits", "w2a2", "--no-export"),
    "verify": output("verify", "made", "--result", "energy-1.5uJ"),
    "cost": json.loads(output("cost", "digits-mixed", "--uniform", "w4a4", "--json")),
}
print(json.dumps(made))
"""


def test_a_new_cost_metric(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## A new cost metric")[2]
    plugin, command = (m[2] for m in re.finditer(r"```(python|console)\n(.*?)```", text, re.DOTALL))
    assert "--energy-budget 2uJ --dry-run" in command
    (tmp_path / "my_metric.py").write_text(plugin)
    done = subprocess.run(
        [sys.executable, "-c", METRIC_JOB], cwd=tmp_path, env=installed(tmp_path, "my_metric = my_metric"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout)
    assert "--energy-budget" in made["help"]
    assert "pJ" in made["dry"]
    assert "energy-2uJ" in made["dry"]
    (searched,) = made["run"]["results"]
    assert 0 < searched["costs"]["energy"] <= searched["budget"]["energy"] == 1_500_000
    rows = {row["key"]: row for row in made["run"]["rows"]}
    assert rows["energy-1.5uJ"]["energy"] == searched["costs"]["energy"]
    assert "energy" in made["bench"]
    assert "energy" in made["verify"]
    # By hand: every layer of the network, from the same JSON.
    layers = made["cost"]["layers"]
    bits = [((one["weight_bits"] or 32) * (one["act_bits"] or 32), one["macs"]) for one in layers]
    least = sum(macs * both // 64 for both, macs in bits)
    assert made["cost"]["energy"] > least
    report = tmp_path / "made"
    assert "Energy" in (report / "report.html").read_text("utf-8")
    data = json.loads((report / "report.json").read_text("utf-8"))
    assert all(result["cost"]["energy"] > 0 for result in data["results"])
    assert "energy" in (report / "evaluations.csv").read_text("utf-8").splitlines()[0].split(",")
