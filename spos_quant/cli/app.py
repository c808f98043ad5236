"""The typer application. Every module of `cli.commands` adds its command to it."""

from __future__ import annotations

from importlib import import_module

import typer

COMMANDS = (
    *("run", "train", "search", "retrain", "evaluate", "export", "verify", "predict"),
    *("cost", "spaces", "report", "sensitivity", "rank", "bench", "latency", "plan"),
)
"""The modules of `cli.commands`, in the order of the help."""

app = typer.Typer(
    name="spos-quant",
    help="Finds and makes low-bit networks: searches operator x width x bits in one supernet, retrains, exports.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def load() -> typer.Typer:
    """The application with all its commands."""
    for name in COMMANDS:
        import_module(f"spos_quant.cli.commands.{name}")
    return app
