"""The layout of the repository and its generated files."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import spos_quant as sq

ROOT = Path(__file__).parent.parent
PACKAGE = Path(sq.__file__).parent


def test_public_names_exist_and_shadow_no_module():
    modules = {module.name for module in pkgutil.iter_modules(sq.__path__)}
    assert not modules & set(sq.__all__)
    for name in sq.__all__:
        assert callable(getattr(sq, name)), name


def test_every_module_has_a_docstring_and_is_of_readable_size():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        assert text.startswith('"""'), path
        assert text.count("\n") <= 400, path


def test_lower_layers_import_without_torch():
    names = ["spos_quant.space.resolve", "spos_quant.cost.sampler", "spos_quant.data", "spos_quant.backbones.build"]
    names += ["spos_quant.searchers.evolution", "spos_quant.stages.run", "spos_quant.report"]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_papers_numbers_is_fresh():
    paper = tool("make_paper")
    assert paper.PATH.read_text("utf-8") == paper.text(), "run python tools/make_paper.py"
    numbers = [*paper.blocks(), *paper.mixed(), *paper.recipe(), *paper.others()]
    assert all(round(n.ours / n.unit, n.digits) == n.published for n in numbers if "HAWQ" not in n.what)
    assert all(int(n.ours / n.unit) in (n.published, n.published - 1) for n in numbers if "HAWQ" in n.what)


def test_the_page_of_results_is_fresh():
    results = tool("make_results")
    assert results.PATH.read_text("utf-8") == results.text(), "run python tools/make_results.py"
    benchmarks = tool("make_benchmarks")
    assert benchmarks.PATH.read_text("utf-8") == benchmarks.text(), "run python tools/make_benchmarks.py"
    deploy = tool("make_deploy")
    assert deploy.PATH.read_text("utf-8") == deploy.text(), "run python tools/make_deploy.py"


def test_the_published_schema_and_the_list_of_spaces_are_fresh():
    for path, text in [
        tool("make_tables").schema(),
        tool("make_tables").spaces(),
    ]:  # network shapes are checked in tests/backbones/test_build.py
        assert path.read_text("utf-8") == text, f"{path} is stale: run python tools/make_tables.py"
