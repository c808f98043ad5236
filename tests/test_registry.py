from __future__ import annotations

import sys

import pytest

from spos_quant import registry
from spos_quant.errors import ConfigError, near
from spos_quant.registry import Registry


def test_names_find_what_was_registered():
    things: Registry[int] = Registry("thing")
    assert things.register("one")(1) == 1
    things.register("another")(2)
    assert things["one"] == 1
    assert list(things) == ["another", "one"]
    assert "one" in things
    assert "two" not in things
    assert 7 not in things


def test_unknown_names_are_explained():
    things: Registry[int] = Registry("thing")
    with pytest.raises(ConfigError, match="unknown thing 'x'; none is known"):
        things["x"]
    things.register("conv3x3")(1)
    things.register("conv5x5")(1)
    with pytest.raises(
        ConfigError, match=r"unknown thing 'conv3x'; did you mean 'conv3x3'\? \(known: conv3x3, conv5x5\)"
    ):
        things["conv3x"]
    with pytest.raises(ConfigError, match=r"unknown thing 'zzzzzz'; \(known"):
        things["zzzzzz"]


def test_a_name_is_taken_once():
    things: Registry[int] = Registry("thing")
    things.register("one")(1)
    with pytest.raises(ConfigError, match="thing 'one' is registered twice"):
        things.register("one")(2)
    assert things["one"] == 1


def test_built_in_modules_are_imported_at_the_first_look_up(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_builtins.py").write_text("from test_registry_shared import things\nthings.register('late')(3)\n")
    (tmp_path / "test_registry_shared.py").write_text(
        "from spos_quant.registry import Registry\nthings = Registry('thing', builtin_modules=('toy_builtins',))\n"
    )
    from importlib import import_module

    things = import_module("test_registry_shared").things
    assert "toy_builtins" not in sys.modules
    assert things["late"] == 3
    assert list(things) == ["late"]


class Entry:
    """A stand-in for an installed package's entry point."""

    name, value = "acme", "acme.plugins"

    def __init__(self, load):
        self.load = load


def install(monkeypatch, load):
    registry._load_plugins.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry(load)] if group == "spos_quant.plugins" else [])


@pytest.fixture(autouse=True)
def _forget_plugins():
    yield
    registry._load_plugins.cache_clear()


def test_installed_packages_join(monkeypatch):
    things: Registry[int] = Registry("thing")
    install(monkeypatch, lambda: things.register("theirs")(5))
    assert things["theirs"] == 5
    assert list(things) == ["theirs"]  # loaded once


def test_a_broken_plug_in_is_named(monkeypatch):
    def load():
        raise ImportError("no module named 'acme_core'")

    things: Registry[int] = Registry("thing")
    install(monkeypatch, load)
    with pytest.raises(ConfigError, match=r"plug-in 'acme' \(acme.plugins\) cannot be loaded: ImportError: no module"):
        things["x"]


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("bits", ["bit", "op"], "; did you mean 'bit'? (known: bit, op)"),
        ("q", ["bit", "op"], "; (known: bit, op)"),
        ("q", [], "; none is known"),
        (3, ["a"], "; (known: a)"),
        (
            "q",
            [f"n{i:02}" for i in range(15)],
            "; (known: " + ", ".join(f"n{i:02}" for i in range(12)) + ", ... (15 in all))",
        ),
    ],
)
def test_near_matches(word, known, expected):
    assert near(word, known) == expected
