"""Terminals without colours, limited encodings, closed pipes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spos_quant.cli import show

ENVIRONMENTS = [
    {"NO_COLOR": "1"},
    {"TERM": "dumb"},
    {"FORCE_COLOR": "1"},
    {"LC_ALL": "C"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
]
COMMAND = [sys.executable, "-m", "spos_quant"]


def shell(text: str, **environment: str):
    return subprocess.run(
        ["/bin/bash", "-c", text], capture_output=True, check=False, env={**os.environ, **environment}, timeout=120
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_piped_output_is_plain(environment):
    done = shell(f"{sys.executable} -m spos_quant spaces", **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    assert b"digits-mixed" in done.stdout
    if environment.get("PYTHONIOENCODING") == "ascii":
        assert done.stdout.isascii()
        assert b"\\u" not in done.stdout  # lines of a table, not escapes of lines


def test_a_terminal_gets_no_codes_either():
    """`script` provides a terminal."""
    done = shell(f"script -qec '{sys.executable} -m spos_quant spaces' /dev/null < /dev/null", TERM="xterm-256color")
    if done.returncode == 127:
        pytest.skip("no `script` on this machine")
    assert done.returncode == 0
    assert b"digits-mixed" in done.stdout
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("arguments", ["spaces", "spaces --json", "cost resnet34-mixed --uniform w4a4 --json"])
@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_closed_pipes_are_no_error(arguments, reader):
    done = shell(f"{sys.executable} -m spos_quant {arguments} | {reader}; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, b"")


def test_tables_raise_broken_pipe_instead_of_exiting(monkeypatch):
    """Rich would exit with status 1."""

    class Gone:
        encoding = "utf-8"

        def write(self, text):
            raise BrokenPipeError

        def isatty(self):
            return False

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):
        show.table(("a",), [("b",)])


def test_a_full_disk_is_named():
    done = shell(f"{sys.executable} -m spos_quant spaces > /dev/full")
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "größe 漢 \\udcff"), ("ascii", "gr\\xf6\\xdfe \\u6f22 \\udcff")]
)
def test_unencodable_characters_are_escaped(encoding, shown):
    code = (
        "from spos_quant.cli import show; show.say('größe 漢 \\udcff'); show.table(('ö', '漢'), [('\\udcff', '[b]')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
    )
    line, *table = done.stdout.decode(encoding).splitlines()
    assert line == shown
    assert "\\udcff" in "\n".join(table)
    assert "[b]" in "\n".join(table)  # names are no markup


@pytest.mark.parametrize("arguments", [["cost", "größe"], ["cost", "digits-mixed", "--bits", "größe"]])
def test_errors_are_shown_in_any_encoding(arguments):
    for encoding, shown in (("ascii", b"gr\\xf6\\xdfe"), ("utf-8", "größe".encode())):
        done = subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: ")
        assert shown in done.stderr
