"""`spos-quant spaces`: the built-in search spaces and the cost range of their architectures.

Computing all costs takes seconds, so the list is stored beside the network shapes, with a digest of its sources. It is
recomputed if they have changed, or if installed plug-ins may provide metrics.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any

LIST = "spaces.json"


def all_spaces() -> list[dict[str, Any]]:
    """`name, backbone, size, cheapest, dearest` of the built-in search spaces; the last two by metric."""
    stored = files("search_spaces") / "tables" / LIST
    if not entry_points(group="spos_quant.plugins"):
        try:
            found = json.loads(stored.read_text("utf-8"))
            if found["digest"] == sources_digest():
                return list(found["spaces"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # absent, damaged or of another version: recomputed
    return priced_spaces()


def priced_spaces() -> list[dict[str, Any]]:
    """The content of `all_spaces`, computed."""
    from spos_quant.backbones.build import builtin_spaces, load_space
    from spos_quant.stages.cost import space_cost

    found = []
    for name in builtin_spaces():
        space = load_space(name)
        cost = space_cost(space)
        ends = {key: cost[key] for key in ("size", "cheapest", "dearest")}
        found.append({"name": name, "backbone": space.spec.backbone, **ends})
    return found


def sources_digest() -> str:
    """Digest of all files that define the built-in spaces: their YAML and network shapes."""
    folder, found = files("search_spaces"), hashlib.sha256()
    for parent in (folder, folder / "tables"):
        for item in sorted(parent.iterdir(), key=lambda item: item.name):
            if item.name.endswith((".yaml", ".json")) and item.name != LIST:
                found.update(item.name.encode() + b"\0" + item.read_bytes())
    return found.hexdigest()


def spaces_json() -> str:
    """The text of the stored list."""
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in priced_spaces())
    return f'{{"digest":"{sources_digest()}","spaces":[\n{rows}\n]}}\n'
