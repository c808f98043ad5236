"""spos_quant: search operator x width x bits in one supernet, retrain with quantization, export a low-bit model.

Names are imported at first use, so that `import spos_quant` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spos_quant.backbones.build import build as build
    from spos_quant.backbones.build import load_space as load_space
    from spos_quant.config import SearchConfig as SearchConfig
    from spos_quant.convert.api import apply_bits as apply_bits
    from spos_quant.convert.api import quantize as quantize
    from spos_quant.export.api import export_onnx as export_onnx
    from spos_quant.quant.exported_program import export_program as export_program
    from spos_quant.searchers.api import search as search
    from spos_quant.searchers.sensitivity import sensitivity as sensitivity
    from spos_quant.stages.bench import bench as bench
    from spos_quant.stages.load import load as load
    from spos_quant.supernet.fast import fast_steps as fast_steps
    from spos_quant.supernet.measure import measure as measure

_MODULES = {
    "SearchConfig": "spos_quant.config",
    "apply_bits": "spos_quant.convert.api",
    "bench": "spos_quant.stages.bench",
    "build": "spos_quant.backbones.build",
    "export_onnx": "spos_quant.export.api",
    "export_program": "spos_quant.quant.exported_program",
    "fast_steps": "spos_quant.supernet.fast",
    "load": "spos_quant.stages.load",
    "load_space": "spos_quant.backbones.build",
    "measure": "spos_quant.supernet.measure",
    "quantize": "spos_quant.convert.api",
    "search": "spos_quant.searchers.api",
    "sensitivity": "spos_quant.searchers.sensitivity",
}
__all__ = [
    "SearchConfig",
    "apply_bits",
    "bench",
    "build",
    "export_onnx",
    "export_program",
    "fast_steps",
    "load",
    "load_space",
    "measure",
    "quantize",
    "search",
    "sensitivity",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'spos_quant' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
