#!/usr/bin/env python3
"""Writes the generated files: network shapes and costs of the built-in spaces, and the schema of bit configurations.

python tools/make_tables.py            # writes
python tools/make_tables.py --check    # exits 1 if a stored file is stale
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from spos_quant.backbones.build import builtin_spaces, load_spec, measure, network_shapes_json, structure_hash
from spos_quant.space.bit_config import BitConfig
from spos_quant.space.shapes import NetworkShapes
from spos_quant.stages.spaces import LIST, spaces_json

ROOT = Path(__file__).resolve().parent.parent


def generated() -> Iterator[tuple[Path, str]]:
    """Yields the path and the expected text of the network shapes and the schema."""
    found: dict[str, NetworkShapes] = {}
    for name in builtin_spaces():
        spec = load_spec(name)
        key = structure_hash(spec)
        if key not in found:
            found[key] = measure(spec)
        yield ROOT / "search_spaces" / "tables" / f"{name}.json", network_shapes_json(spec, found[key])
    yield schema()


def spaces() -> tuple[Path, str]:
    """The list of the built-in spaces, computed from the stored network shapes."""
    return ROOT / "search_spaces" / "tables" / LIST, spaces_json()


def schema() -> tuple[Path, str]:
    """The JSON Schema of bit configurations."""
    made = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "spos-quant/bit-config/1",
        **BitConfig.model_json_schema(),
    }
    return ROOT / "spos_quant" / "space" / "bit-config.schema.json", json.dumps(made, indent=1) + "\n"


def main() -> int:
    """Writes or checks; returns the exit status."""
    check = "--check" in sys.argv[1:]
    stale = []
    for part in (generated, lambda: [spaces()]):  # the list is computed from the shapes
        for path, text in list(part()):
            if path.exists() and path.read_text("utf-8") == text:
                continue
            stale.append(path)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
    if check:
        for path in stale:
            sys.stderr.write(f"{path} is stale; run: python tools/make_tables.py\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
