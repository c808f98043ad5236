"""Pages of docs/ for users: their code runs, their spaces are valid, their commands exist."""

from __future__ import annotations

import gc
import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

import spos_quant as sq
from spos_quant.backbones.build import builtin_spaces, space_of
from spos_quant.backbones.registry import backbones
from spos_quant.cli.app import load
from spos_quant.quant.quantizers import act_quantizers, weight_quantizers
from spos_quant.registry import Registry
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.operators import operators

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# Pages about the repository itself, whose blocks are not for copying.
INSIDE = ("ARCHITECTURE", "models", "paper", "reliability")
PAGES = sorted(path.stem for path in DOCS.glob("*.md") if path.stem not in INSIDE)
LANGUAGES = ("python", "yaml", "toml", "console")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OTHER_PROGRAMS = ("export", "python3", ".venv/bin/pip", "pip", "ray", "torchrun")


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text("utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(text_of(page)) if kind == language]


def pages_with(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the plug-ins that a page registers after its test."""
    assert operators
    assert backbones
    assert weight_quantizers
    assert act_quantizers
    for registry in [item for item in gc.get_objects() if type(item) is Registry]:
        list(registry)  # loads the built-in plug-ins, which stay
        monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))


# Newer versions of typer contain click.
USAGE_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


@pytest.mark.parametrize("page", pages_with("python"))
@pytest.mark.usefixtures("registries")
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: dict[str, object] = {"__name__": "page"}
    text = text_of(page)
    for found in BLOCK.finditer(text):
        if found[1] != "python":
            continue
        line = text[: found.start()].count("\n") + 1  # so that tracebacks name lines of the page
        code = compile("\n" * line + found[2], str(DOCS / f"{page}.md"), "exec")
        exec(code, names)
    if page == "own-data":
        data = names["squares"]()  # type: ignore[operator]
        assert data["train"][0].shape == (500, 16, 16, 1)


@pytest.mark.parametrize("page", pages_with("yaml"))
def test_yaml_blocks_are_search_spaces(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block without a backbone updates the page's first space."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole: dict[str, object] = {}
    for text in blocks(page, "yaml"):
        raw = yaml.safe_load(text)
        whole = whole if whole and "backbone" not in raw else raw
        assert space_of(parse_spec({**whole, **raw}, page)).size > 1


@pytest.mark.parametrize("page", pages_with("console"))
def test_commands_parse(page: str) -> None:
    """The command line accepts all commands, options and values; nothing is run."""
    commands = typer.main.get_command(load()).commands  # type: ignore[attr-defined]
    for line in "".join(blocks(page, "console")).splitlines():
        program, *arguments = shlex.split(line)
        if program != "spos-quant":
            assert program in OTHER_PROGRAMS, line
            continue
        assert arguments[0] in commands, line
        try:
            with commands[arguments[0]].make_context(arguments[0], arguments[1:]) as context:
                given = context.params
        except USAGE_ERROR as error:
            pytest.fail(f"{page}.md: {line}: {error.format_message()}")
        space = given.get("space") or given.get("target") or ""
        if space and not space.endswith(".yaml") and not space.startswith("runs/"):
            assert space in builtin_spaces(), line


def test_toml_blocks_are_the_example_package() -> None:
    package = (ROOT / "examples" / "plugin" / "pyproject.toml").read_text("utf-8")
    for page in pages_with("toml"):
        assert all(block in package for block in blocks(page, "toml")), page


def test_every_block_is_tested() -> None:
    for page in PAGES:
        kinds = [kind for kind, _ in BLOCK.findall(text_of(page))]
        assert all(kind in LANGUAGES for kind in kinds), f"{page}: {kinds}"
        assert text_of(page).count("```") == 2 * len(kinds), page


def test_navigation_and_reference_are_complete() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for path in DOCS.glob("*.md"):
        assert f" {path.name}\n" in navigation, path
    reference = text_of("reference")
    for name in sq.__all__:
        assert f"::: {getattr(sq, name).__module__}.{name}\n" in reference, name
    examples = text_of("own-model").partition("## Examples")[2]
    for path in (ROOT / "examples").glob("*.py"):
        assert path.name in examples, path
