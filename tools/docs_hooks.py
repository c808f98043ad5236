"""Hooks of mkdocs: fill the list of decisions, and remove links that lead out of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+[^)]*\)")


def on_config(config: Any) -> Any:
    """Replaces every folder in the navigation by its pages."""
    config["nav"] = _filled(config["nav"], Path(config["docs_dir"]))
    return config


def _filled(item: Any, docs: Path) -> Any:
    if isinstance(item, list):
        return [_filled(one, docs) for one in item]
    if isinstance(item, dict):
        return {key: _filled(value, docs) for key, value in item.items()}
    if isinstance(item, str) and item.endswith("/"):
        return [str(path.relative_to(docs)) for path in sorted((docs / item).glob("*.md"))]
    return item


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replaces links to files outside docs/ by their text, because the built pages do not include these files."""
    return markdown if "/" in page.file.src_uri else _OUTSIDE.sub(r"\1", markdown)
