from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import pytest

from spos_quant.report import render

Look = Callable[..., browser.Page]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    started = browser.start(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def look(chromium: browser.Browser, tmp_path: Path) -> Iterator[Look]:
    """Opens the page of some data. At the end of a test no page may have logged errors or loaded anything external."""
    pages = []

    def opened(data: dict[str, Any], **how: Any) -> browser.Page:
        path = tmp_path / f"page-{len(pages)}.html"
        path.write_text(render(data), "utf-8")
        page = chromium.open(**how)
        pages.append(page)
        return page.visit(path)

    yield opened
    for page in pages:
        page.run("0")  # pending events arrive before the result
        assert page.complaints == []
        assert page.outside == []
        page.close()
