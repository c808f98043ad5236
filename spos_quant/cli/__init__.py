"""The command line. `main` turns errors into a message and an exit status; each command imports what it needs."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spos_quant import interrupt
from spos_quant.errors import SposQuantError, printable

USER_ERROR, OWN_FAULT, INTERRUPTED = 2, 1, interrupt.EXIT_STATUS


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 success, 1 internal error, 2 user error, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    interrupt.install(_interrupted(given))
    status = run(given)
    if status == INTERRUPTED:
        # Does not wait for running threads and processes: files are written atomically, so all on disk are complete.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Runs a command and returns its exit status."""
    import typer

    from spos_quant.cli.app import load

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process (`>&-`)
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends
    # Newer versions of typer bundle click; the base class of usage errors is found in both cases.
    usage_error: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    try:
        command = typer.main.get_command(load())
        if "_SPOS_QUANT_COMPLETE" in os.environ:
            command.main(arguments, prog_name="spos-quant")
        # Not `command.main`, which sets its own exit statuses for interrupts and closed pipes.
        with command.make_context("spos-quant", arguments) as context:
            command.invoke(context)
            sys.stdout.flush()
        return 0
    except typer.Exit as error:
        return error.exit_code
    except usage_error as error:
        error.show(sys.stderr)
        return USER_ERROR
    except (KeyboardInterrupt, typer.Abort):
        _say(_interrupted(arguments))
        return INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe, which is no error. Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - every error ends in a message, not in a traceback
        if "-v" in arguments or "--verbose" in arguments:
            traceback.print_exc()
        return _explain(error, arguments)


def _explain(error: Exception, arguments: Sequence[str]) -> int:
    """Prints the error and returns the exit status."""
    if interrupt.arrived():
        _say(_interrupted(arguments))
        return INTERRUPTED
    if isinstance(error, SposQuantError):
        _say(f"error: {error}")
        return USER_ERROR
    if isinstance(error, OSError):
        place = f"{printable(str(error.filename))}: " if error.filename else ""
        _say(f"error: {place}{error.strerror or error}; check the path, its permissions and free space")
        return USER_ERROR
    if isinstance(error, MemoryError):
        _say("error: not enough memory; choose a smaller batch size, fewer --workers or a smaller space")
        return USER_ERROR
    _say(f"internal error: {type(error).__name__}: {printable(str(error))}")
    _say("This is a bug of spos-quant; -v shows the traceback.")
    return OWN_FAULT


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _interrupted(arguments: Sequence[str]) -> str:
    """The message of an interrupted command. The same command resumes where it stopped."""
    return f"interrupted; go on with: {shlex.join(['spos-quant', *arguments])}"
