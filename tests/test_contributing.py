"""The walk-through of CONTRIBUTING.md, carried out in a folder of its own."""

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


def test_a_new_operator_and_a_new_backbone(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## A new operator")[2]
    plugin, entry, space, checks = (m[2] for m in re.finditer(r"```(python|toml|yaml)\n(.*?)```", text, re.DOTALL))
    (tmp_path / "my_plugin.py").write_text(plugin)
    (tmp_path / "small.yaml").write_text(space)
    # What an installer would make of the entry point.
    group, line = entry.strip().splitlines()
    assert group == '[project.entry-points."spos_quant.plugins"]'
    info = tmp_path / "my_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spos_quant.plugins]\n" + line.replace('"', "") + "\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
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
