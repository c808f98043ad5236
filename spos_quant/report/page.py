"""The report as one HTML page with style, scripts and data inline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from spos_quant.report.about import about_section, commands_section
from spos_quant.report.bench import bench_section
from spos_quant.report.figures import curves_section, payload, plane_section
from spos_quant.report.markup import Markup, element, join, json_text
from spos_quant.report.network import layers_section, network_section
from spos_quant.report.overview import header, missing, models, tiles
from spos_quant.report.ranking import ranking_section
from spos_quant.report.sensitivity import sensitivity_section

_SCRIPTS = ("base", "plane", "labels", "curves", "comparing", "sensitivity", "reading", "start")
_NAVIGATION = (
    ("models", "Models"),
    ("bench", "Bench"),
    ("plane", "Accuracy and cost"),
    ("ranking", "Ranking"),
    ("sensitivity", "Sensitivity"),
    ("network", "Network"),
    ("curves", "Learning"),
    ("layers", "Layers"),
    ("commands", "Commands"),
    ("about", "Settings"),
)
_OPTIONAL = {"bench": "bench", "ranking": "ranking", "sensitivity": "sensitivities", "commands": "commands"}
"""Optional sections, and the key of the data that each needs."""


def render(data: Mapping[str, Any]) -> str:
    """Renders the page of a run.

    Args:
        data: The content of `report.json`; lists may be empty and optional values null.

    Returns:
        HTML that loads nothing from the network or from other files, and runs only its own scripts.
    """
    main = element(
        "main",
        tiles(data),
        missing(data),
        models(data),
        bench_section(data),
        plane_section(data),
        ranking_section(data),
        sensitivity_section(data),
        network_section(data),
        curves_section(data),
        layers_section(data),
        commands_section(data),
        about_section(data),
        attributes={"id": "main"},
    )
    plots = payload(data)
    plotted = plots["plane"]["points"]["x"] or any(
        plots[name] for name in ("curves", "ranking", "bench", "sensitivities")
    )
    scripts = [*([_plotly()] if plotted else []), _ours()]
    body = join(
        (
            element("a.skip", "Skip to the results", attributes={"href": "#main"}),
            header(data),
            _navigation(data),
            main,
            element("div.status", attributes={"id": "status", "role": "status"}),
            element("script", json_text(plots), attributes={"type": "application/json", "id": "data"}),
            *(element("script", script) for script in scripts),
        )
    )
    page = element("html", _head(data, scripts), element("body", body), attributes={"lang": "en"})
    return f"<!doctype html>\n{page}\n"


def _head(data: Mapping[str, Any], scripts: list[Markup]) -> Markup:
    return element(
        "head",
        element("meta", attributes={"charset": "utf-8"}),
        # The policy lists the hashes of the page's own scripts; the browser runs no others.
        element("meta", attributes={"http-equiv": "Content-Security-Policy", "content": _policy(scripts)}),
        element("meta", attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", attributes={"name": "color-scheme", "content": "light dark"}),
        element("title", f"{data['space']['name']}: spos-quant report"),
        element("style", _own("page.css")),
    )


def _policy(scripts: list[Markup]) -> str:
    hashes = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    # Plotly sets inline styles and exports plots as images through data: and blob: URLs.
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"


def _navigation(data: Mapping[str, Any]) -> Markup:
    names = [(name, title) for name, title in _NAVIGATION if data.get(_OPTIONAL.get(name, "space"))]
    links = [element("a", title, attributes={"href": f"#{name}"}) for name, title in names]
    return element("nav", *links, attributes={"aria-label": "Parts of this page"})


def _own(name: str) -> Markup:
    return Markup((files("spos_quant.report") / name).read_text("utf-8"))


def _ours() -> Markup:
    """The scripts of the page in one function scope, so they define no global names."""
    parts = "".join(_own(f"scripts/{name}.js") for name in _SCRIPTS)
    return Markup(f'"use strict";\n(() => {{\n{parts}}})();\n')


def _plotly() -> Markup:
    # Plotly is slow to import, and only a page with plots needs it.
    from plotly.offline import get_plotlyjs

    script = str(get_plotlyjs())
    # Escapes what HTML would parse as the end or nesting of a script element; JavaScript strings keep their value.
    for word, same in (("</script", "<\\/script"), ("<!--", "<\\!--"), ("<script", "<\\script")):
        script = script.replace(word, same)
    return Markup(script)
