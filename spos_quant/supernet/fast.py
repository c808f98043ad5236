"""What a training does beside its steps so that they take less time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from spos_quant.quant.fused_relu import absorbed_relus
from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.static import parameters_stay, plain_values
from spos_quant.supernet.blocks import followed
from spos_quant.supernet.network import blocks_in_a_row, relus_in_front


@contextmanager
def fast_steps(model: nn.Module, *, compiled: bool = True) -> Iterator[None]:
    """While open, training steps of a supernet or of a subnet take less time, with the same answers to the last bit.

    Fake quantization runs as compiled loops, where a compiler is there (the first time takes up to two minutes, kept in
    the user's cache folder; where it fails one line says so), quantizers answer with values alone, and take over ReLUs
    and residual sums in front of them. Gradients that go through scales are sums in another order, so that a training
    ends in other last digits. With `memory_format=torch.channels_last` of model and images it gains most.

    The model must be on its device already. Copies of it, `no_grad` passes and `load_state_dict` are fine inside;
    calibrating, measuring and exporting belong outside, and so do changes of its quantizers.

    Args:
        model: Whose parameters the steps train.
        compiled: False leaves out the compiled loops, and with them the other order of sums.
    """
    device = next((str(parameter.device) for parameter in model.parameters()), "cpu")
    relus = absorbed_relus(relus_in_front(model))
    sums = followed(blocks_in_a_row(model))
    with compiled_kernels(compiled, device), plain_values(model), relus, sums, parameters_stay():
        yield
