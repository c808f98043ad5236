"""What a training does beside its steps so that they take less time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from spos_quant.quant.kernels import compiled_kernels
from spos_quant.quant.rectify import absorbed_relus
from spos_quant.quant.static import plain_values
from spos_quant.supernet.network import relus_in_front


@contextmanager
def fast_steps(model: nn.Module, *, compiled: bool = True) -> Iterator[None]:
    """While open, training steps of a supernet or of a subnet take less time; values are the same to the last bit.

    Fake quantization runs as compiled loops, where a compiler is there (the first time takes up to two minutes, kept in
    the user's cache folder; where it fails one line says so), quantizers answer with values alone, and take over ReLUs
    in front of them. Gradients of scales are sums in another order. With `memory_format=torch.channels_last` of model
    and images it gains most; the model must be on its device already.

    Args:
        model: Whose parameters the steps train.
        compiled: False leaves out the compiled loops, and with them the other order of sums.
    """
    device = next((str(parameter.device) for parameter in model.parameters()), "cpu")
    with compiled_kernels(compiled, device), plain_values(model), absorbed_relus(relus_in_front(model)):
        yield
