"""The registry of backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spos_quant.registry import Registry

if TYPE_CHECKING:
    from spos_quant.supernet.network import Backbone

backbones: Registry[Backbone] = Registry(
    "backbone",
    builtin_modules=tuple(
        f"spos_quant.backbones.{name}" for name in ("resnet", "shufflenetv2", "mobilenet", "nasbench201")
    ),
)
