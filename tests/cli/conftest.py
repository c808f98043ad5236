from __future__ import annotations

import pytest

from spos_quant.cli import run as run_command

pytest.register_assert_rewrite("cli_cases")


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """A function that runs a command in an empty folder and returns `(status, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str):
        capsys.readouterr()
        status = run_command([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run
