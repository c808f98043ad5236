"""The contract of loggers, and what several of them need."""

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
    """Where one curve goes, and from where it goes on.

    Attributes:
        folder: The logs folder of a run directory; made where it is missing. Local files stay below it.
        run: The name of the run, for services that show many.
        name: What is logged, such as `supernet` or `search-bitops-2.2M`; any text.
        config: Settings to show next to the curve: plain values, nested or not.
        from_step: The first step that is logged now. An earlier process may have logged it and later ones before it
            was killed; those are logged again and each logger ends up with every step once.
    """

    folder: Path
    run: str
    name: str
    config: Mapping[str, object] = field(default_factory=dict)
    from_step: int = 0


class Logger(Protocol):
    """Takes values by step. Steps rise from call to call and begin at the target's `from_step` or later.

    What was logged must survive a kill at any moment, and values that are not finite must not stop a training.
    """

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Takes the values of one step."""

    def close(self) -> None:
        """Writes what is left; a second call does nothing."""


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
    """Imports what a logger needs when it is opened; typed `Any`, because it may not be installed.

    Args:
        module: The module to import.
        logger: The name of the logger; its package and the extra that brings it have the same name.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"log={logger} needs the package {logger}; install it with: pip install 'spos-quant[{logger}]' ({error})"
        ) from None


def file_name(name: str) -> str:
    """A name as part of a path: never a way out of the folder, and different for different names."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-")[:_LONGEST_NAME]
    if plain == name != "":
        return name
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:_DIGEST]}".lstrip("-")


def flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as one level of dotted names, as they are typed on the command line."""
    found: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def unwritable(path: Path, error: OSError) -> RunError:
    """What to raise where a log cannot be written."""
    why = error.strerror or str(error)
    return RunError(f"{path}: cannot be written ({why}); free some space or mend the folder, then repeat the command")
