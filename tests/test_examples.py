"""Every example runs successfully in a temporary folder."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
NEEDS = {"lightning_callback": "lightning", "timm_model": "timm"}
# One process, since importing torch takes longest.
JOB = """
from spos_quant import load_space
from spos_quant.cli import run
from spos_quant.supernet.operators import operators
from spos_quant.testing import check_operator, check_space

assert run(["cost", "stairs.yaml", "--json"]) == 0
print()
settings = ["--set", "train.iterations=3", "--set", "train.batch_size=8"]
assert run(["train", "stairs.yaml", "--out", "made", "--json", *settings]) == 0
check_operator(operators["cross3"])
check_space(load_space("stairs.yaml"), paths=2)
"""
QUICK: dict[str, tuple[()]] = {"plain_pytorch": ()}
"""Not marked slow: these take as long as importing torch. CI runs all."""
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def run(folder: Path, *command: str, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, with this checkout's spos_quant."""
    found = os.pathsep.join(filter(None, [*map(str, path), str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": found, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.mark.parametrize("name", [pytest.param(name, marks=QUICK.get(name, pytest.mark.slow)) for name in SCRIPTS])
def test_script(name: str, tmp_path: Path) -> None:
    needed = NEEDS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed; pip install '.[examples]'")
    assert run(tmp_path, sys.executable, str(EXAMPLES / f"{name}.py")).stdout.strip()


def test_plugin(tmp_path: Path) -> None:
    if importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("the plug-in is installed with pip and setuptools, one of which is missing")
    source, installed = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(EXAMPLES / "plugin", source)  # building leaves files beside it
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run(tmp_path, sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(installed), str(source))
    assert list(installed.glob("*.dist-info/entry_points.txt"))

    done = run(source, sys.executable, "-c", JOB, path=(installed,))
    cost, trained = map(json.loads, done.stdout.strip().split("\n\n"))
    # Two operators with two widths and three bit pairs each; skip, in the last block, has neither.
    assert cost["size"] == 12**3 * 13
    assert trained["skipped"] is False


def test_scripts_are_short_and_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert path.read_text("utf-8").count("\n") < 80, path
        assert f"({path.name})" in listed, path
