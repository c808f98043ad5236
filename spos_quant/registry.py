"""Named plug-ins: one registry per extension point, filled by decorators and by installed packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from spos_quant.errors import ConfigError, near

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names in YAML or on the command line to plug-ins.

    Built-in plug-ins are in `builtin_modules`, which are imported at the first look-up, so that start-up is fast. Other
    packages use the entry-point group `spos_quant.plugins`: each entry point names a module whose import registers its
    plug-ins.
    """

    def __init__(self, noun: str, *, builtin_modules: tuple[str, ...] = ()) -> None:
        self.noun = noun
        self._builtin_modules = builtin_modules
        self._plugins: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers its argument under `name`; raises `ConfigError` if the name is taken."""

        def add(plugin: T) -> T:
            if name in self._plugins:
                raise ConfigError(f"{self.noun} {name!r} is registered twice; choose another name")
            self._plugins[name] = plugin
            return plugin

        return add

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._plugins:
            raise ConfigError(f"unknown {self.noun} {name!r}{near(name, self._plugins)}")
        return self._plugins[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._plugins

    def items(self) -> list[tuple[str, T]]:
        """Names and plug-ins in order of registration."""
        self._load()
        return list(self._plugins.items())

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._plugins))

    def _load(self) -> None:
        for module in self._builtin_modules:
            import_module(module)
        _load_plugins()


@cache
def _load_plugins() -> None:
    for entry in entry_points(group="spos_quant.plugins"):
        try:
            entry.load()
        except Exception as error:
            raise ConfigError(
                f"plug-in {entry.name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}; "
                "fix or uninstall the package that provides it"
            ) from error
