"""The code blocks of README.md work."""

from __future__ import annotations

import re
from pathlib import Path

from spos_quant.cli import run as run_command

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_block_runs(tmp_path, monkeypatch, capsys):
    (block,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    ours, measured = capsys.readouterr().out.split()
    assert ours == measured
    assert int(ours) <= 64 * 64 * 16
    assert (tmp_path / "model.onnx").exists()


def test_readme_is_short():
    assert README.count("\n") <= 150


def test_commands_exist():
    lines = [line.split("#")[0].split() for block in blocks("console") for line in block.splitlines()]
    commands = [line[1:] for line in lines if line and line[0] == "spos-quant"]
    assert len(commands) >= 7
    for command in commands:
        assert run_command([command[0], "--help"]) == 0, command
    assert run_command(["cost", "resnet18-mixed", "--uniform", "w2a2"]) == 0
    assert len([line for line in README.splitlines() if line.startswith("python3 -m venv")]) == 2
