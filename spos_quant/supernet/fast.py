"""Faster training steps: compiled kernels, plain quantizer outputs, fused ReLUs and residual sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from spos_quant.quant.fused_relu import fused_relus
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.static import parameters_stay, plain_tensors
from spos_quant.supernet.blocks import next_block_known
from spos_quant.supernet.network import blocks_in_a_row, relus_in_front


@contextmanager
def fast_steps(model: nn.Module, *, compiled: bool = True) -> Iterator[None]:
    """Makes training steps of a supernet or subnet faster while open, with bit-identical outputs.

    Fake quantization runs as compiled loops if a compiler is available. The first compilation takes up to two minutes
    and is kept in the user's cache folder; if it fails, one line reports it. Quantizers return plain values, and apply
    the ReLUs and residual sums in front of them. Gradients through scales are summed in another order, so the trained
    weights differ in the last digits. The gain is largest if model and images use `memory_format=torch.channels_last`.

    The model must already be on its device. Copies of it, `no_grad` passes and `load_state_dict` are allowed inside.
    Calibration, measuring, export and changes of its quantizers must be outside.

    Args:
        model: The model that the steps train.
        compiled: False disables the compiled loops, and with them the other order of sums.
    """
    device = next((str(parameter.device) for parameter in model.parameters()), "cpu")
    relus = fused_relus(relus_in_front(model))
    sums = next_block_known(blocks_in_a_row(model))
    with compiled_kernels(compiled, device), plain_tensors(model), relus, sums, parameters_stay():
        yield
