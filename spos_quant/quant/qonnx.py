"""Brevitas's QONNX exporter, with what it writes wrongly put right."""

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
        Names of the layers whose weights have no zero beyond 1 bit: they are written as the odd levels of one bit more.
    """
    with quiet(), torch.no_grad():
        stand_in, odd_weights, _ = with_stand_ins(model, binary=True)
        _Manager.export(
            stand_in.eval(), args=example, export_path=str(path), opset_version=OPSET, dynamo=False, **free_batch()
        )
    return odd_weights


class _ActHandler(BrevitasActQuantProxyHandler):  # type: ignore[misc]
    """Activations without a sign are `Quant` at 1 bit too; as `BipolarQuant` 0 would become the upper level."""

    def prepare_for_export(self, module: nn.Module) -> None:
        super().prepare_for_export(module)
        if module.is_quant_enabled and not module.is_signed:
            self.quant_op = BrevitasQuantOp


class _Manager(QONNXManager):  # type: ignore[misc]
    handlers = tuple(
        _ActHandler if handler is BrevitasActQuantProxyHandler else handler for handler in QONNXManager.handlers
    )
