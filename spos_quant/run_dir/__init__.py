"""Run directories: atomic file writes, checksums, and a lock for one owner at a time."""

from spos_quant.run_dir.checksums import check, drop, listed, read_artifact, store, store_json
from spos_quant.run_dir.files import cache_dir, digest, json_text, read_json, write_bytes, write_json, write_text
from spos_quant.run_dir.lock import NAME as LOCK
from spos_quant.run_dir.lock import claim, locks

__all__ = [
    "LOCK",
    "cache_dir",
    "check",
    "claim",
    "digest",
    "drop",
    "json_text",
    "listed",
    "locks",
    "read_artifact",
    "read_json",
    "store",
    "store_json",
    "write_bytes",
    "write_json",
    "write_text",
]
