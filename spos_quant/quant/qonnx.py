"""Brevitas's QONNX exporter, with corrections."""

from __future__ import annotations

from pathlib import Path

import torch
from brevitas.export.onnx.qonnx.function import BrevitasQuantOp
from brevitas.export.onnx.qonnx.handler import BrevitasActQuantProxyHandler
from brevitas.export.onnx.qonnx.manager import QONNXManager
from torch import Tensor, nn

from spos_quant.quant.onnx import OPSET, free_batch, quiet, with_stand_ins


def export_qonnx(model: nn.Module, example: Tensor, path: Path) -> set[str]:
    """Writes a Brevitas model as QONNX: float operators, `Quant` and `BipolarQuant` nodes, float initializers.

    Returns:
        Names of the layers whose weights have more than 1 bit but no zero: they are written as odd levels of one extra
        bit.
    """
    with quiet(), torch.no_grad():
        stand_in, midrise_weights, _ = with_stand_ins(model, binary=True)
        _Manager.export(
            stand_in.eval(), args=example, export_path=str(path), opset_version=OPSET, dynamo=False, **free_batch()
        )
    return midrise_weights


class _ActHandler(BrevitasActQuantProxyHandler):  # type: ignore[misc]
    """Writes unsigned activations as `Quant` at 1 bit too; `BipolarQuant` would map 0 to the upper level."""

    def prepare_for_export(self, module: nn.Module) -> None:
        super().prepare_for_export(module)
        if module.is_quant_enabled and not module.is_signed:
            self.quant_op = BrevitasQuantOp


class _Manager(QONNXManager):  # type: ignore[misc]
    handlers = tuple(
        _ActHandler if handler is BrevitasActQuantProxyHandler else handler for handler in QONNXManager.handlers
    )
