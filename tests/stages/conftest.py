from __future__ import annotations

import json
from pathlib import Path

import pytest
from stages_settings import BUDGET, TINY

from spos_quant.cli import run as run_command


@pytest.fixture
def command(capsys):
    """Runs a command line in this process: `(status, stdout, stderr)`; with `json=True` the parsed object."""

    def call(*arguments: str, json: bool = False):
        capsys.readouterr()
        status = run_command([*map(str, arguments), *(["--json"] if json else [])])
        out, err = capsys.readouterr()
        if json:
            assert status == 0, err
            return _parse(out)
        return status, out, err

    return call


def _parse(text: str):
    return json.loads(text)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A finished run of the main job in a tiny setting, made once; tests must not change its results."""
    path = tmp_path_factory.mktemp("main-job") / "run"
    assert run_command(["run", "digits-mixed", "--bitops-budget", BUDGET, "--out", str(path), *TINY, "--json"]) == 0
    return path
