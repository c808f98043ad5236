"""The code blocks of README.md work."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from spos_quant.backbones.build import space_of
from spos_quant.cli import run as run_command
from spos_quant.space.spec import parse_spec

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    space, own = blocks("python")
    monkeypatch.chdir(tmp_path)
    exec(compile(space, "README.md", "exec"), {})
    ours, measured = capsys.readouterr().out.split()
    assert ours == measured
    assert int(ours) <= 2_200_000
    assert (tmp_path / "model.onnx").exists()
    exec(compile(own, "README.md", "exec"), {})
    ours, measured = capsys.readouterr().out.split()
    assert ours == measured
    assert int(ours) <= 64 * 64 * 16


def test_space_of_the_yaml_block_is_valid():
    (text,) = blocks("yaml")
    assert space_of(parse_spec(yaml.safe_load(text), "README")).size > 10**9


def test_commands_exist():
    lines = [line.split("#")[0].split() for block in blocks("console") for line in block.splitlines()]
    commands = [line[1:] for line in lines if line and line[0] == "spos-quant"]
    assert len(commands) >= 7
    for command in commands:
        assert run_command([command[0], "--help"]) == 0, command
    assert run_command(["cost", "resnet18-mixed", "--uniform", "w2a2"]) == 0
    assert len([line for line in README.splitlines() if line.startswith("python3 -m venv")]) == 2
