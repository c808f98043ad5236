#!/usr/bin/env python3
"""Writes what is generated and stored: the outlines of the built-in search spaces and the schema of bit configurations.

python tools/make_tables.py            # writes
python tools/make_tables.py --check    # exits 1 where a stored file is not what would be written
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from spos_quant.backbones.build import builtin_spaces, load_spec, measure, outline_json, structure_hash
from spos_quant.space.bit_config import BitConfig
from spos_quant.space.outline import Outline

ROOT = Path(__file__).resolve().parent.parent


def generated() -> Iterator[tuple[Path, str]]:
    """Every stored file with the text that it should hold."""
    found: dict[str, Outline] = {}
    for name in builtin_spaces():
        spec = load_spec(name)
        key = structure_hash(spec)
        if key not in found:
            found[key] = measure(spec)
        yield ROOT / "search_spaces" / "tables" / f"{name}.json", outline_json(spec, found[key])
    yield schema()


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
    made = list(generated())
    stale = [path for path, text in made if not path.exists() or path.read_text("utf-8") != text]
    if check:
        for path in stale:
            sys.stderr.write(f"{path} is stale; run: python tools/make_tables.py\n")
        return 1 if stale else 0
    for path, text in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
