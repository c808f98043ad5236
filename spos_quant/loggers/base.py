"""The logger protocol and registry, and helpers that several loggers share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from spos_quant.errors import ConfigError, RunError
from spos_quant.registry import Registry

_LONGEST_NAME = 80
_DIGEST = 8


@dataclass(frozen=True)
class LogTarget:
    """The destination of one curve, and the step from which a process logs it.

    Attributes:
        folder: The logs folder of a run directory; created if missing. All local files are inside it.
        run: The name of the run, for services that show many runs.
        name: The name of the curve, for example `supernet` or `search-bitops-2.2M`; any text.
        config: Settings to show next to the curve; values may be nested mappings.
        from_step: The first step that this process logs. A killed process may have logged this and later steps. They
            are logged again, and each logger must store every step once.
    """

    folder: Path
    run: str
    name: str
    config: Mapping[str, object] = field(default_factory=dict)
    from_step: int = 0


class Logger(Protocol):
    """Logs values by step. Steps increase from call to call, starting at the target's `from_step` or later.

    Logged values must survive a kill at any time. Values that are not finite must not stop a training.
    """

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs the values of one step."""

    def close(self) -> None:
        """Flushes and closes the logger; a second call does nothing."""


loggers: Registry[Callable[[LogTarget], Logger]] = Registry(
    "logger",
    builtin_modules=(
        "spos_quant.loggers.csv",
        "spos_quant.loggers.mlflow",
        "spos_quant.loggers.tensorboard",
        "spos_quant.loggers.wandb",
    ),
)


def need(module: str, logger: str) -> Any:
    """Imports an optional dependency of a logger. The return type is `Any`, because it may not be installed.

    Args:
        module: The module to import.
        logger: The name of the logger; its package and the extra that installs it have the same name.

    Raises:
        ConfigError: The module cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"log={logger} needs the package {logger}; install it with: pip install 'spos-quant[{logger}]' ({error})"
        ) from None


def file_name(name: str) -> str:
    """Converts a name to a unique file name that cannot escape its folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-")[:_LONGEST_NAME]
    if plain == name != "":
        return name
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:_DIGEST]}".lstrip("-")


def flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flattens nested settings to dotted names, as on the command line."""
    found: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def unwritable(path: Path, error: OSError) -> RunError:
    """The error to raise if a log cannot be written."""
    why = error.strerror or str(error)
    return RunError(f"{path}: cannot be written ({why}); free some space or mend the folder, then repeat the command")
