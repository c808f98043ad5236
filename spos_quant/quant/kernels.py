"""The arithmetic of fake quantization as two kernels, forward and backward, compiled where that pays.

Divide, round, clamp, multiply are four passes over memory as separate operations of torch, and three times as many on
the way back; compiled (TorchInductor: C++ on a CPU, Triton on a GPU) they are one loop each way. Two shapes serve
everything: a tensor with one step is flat, a tensor with a step per channel is `[C, n]`; sizes and levels are arguments
of the loops, so that other layers, widths and bit-widths compile nothing anew.

    python -m spos_quant.quant.kernels cpu        # compiles them and leaves them in torch's cache on disk
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from spos_quant.progress import remark

COMPILE_SECONDS = 120.0
"""Compiling that takes longer is given up: the kernels then run as separate operations."""
WORTH_COMPILING = 100_000_000
"""Pixels that go through a network, from which on compiling pays: some hundred steps of 128 images of 32 x 32."""
_SMALLEST = 4_096
"""Elements of the smallest tensor that compiled kernels are used for."""


def quantized(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`x` rounded to the levels `low`, ..., `high` times `scale`, of its shape.

    The order of operations is that of Brevitas's `IntQuant`, so that not a bit differs from it.
    """
    return torch.clamp(torch.round(x / scale), low, high) * scale


def gradients(
    upstream: Tensor, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, clipped: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `quantized` for `x` and, before they are summed per scale, for `scale`; rounding passes them on.

    Args:
        upstream: Gradient of the result.
        x: As in the forward pass, like the next three.
        scale: See `quantized`.
        low: See `quantized`.
        high: See `quantized`.
        clipped: 1 where values beyond the levels get a gradient too (weights), 0 where they get none (activations).
    """
    steps = x / scale
    rounded = torch.round(steps)
    level = torch.clamp(rounded, low, high)
    inner = torch.where((level == rounded) | (clipped > 0), upstream * scale, 0.0)
    return inner / scale, upstream * level - inner * steps / scale


def flat_gradients(
    upstream: Tensor, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, clipped: Tensor
) -> tuple[Tensor, Tensor]:
    """`gradients` where one scale serves all: `[n]` and a scalar."""
    for_x, for_scale = gradients(upstream, x, scale, low, high, clipped)
    return for_x, for_scale.sum()


def row_gradients(
    upstream: Tensor, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, clipped: Tensor
) -> tuple[Tensor, Tensor]:
    """`gradients` where every row has its scale: `[C, n]` and `[C, 1]`."""
    for_x, for_scale = gradients(upstream, x, scale, low, high, clipped)
    return for_x, for_scale.sum(1, keepdim=True)


@dataclass(frozen=True)
class Kernels:
    """What quantizers compute with."""

    quantized: Callable[..., Tensor]
    flat_gradients: Callable[..., tuple[Tensor, Tensor]]
    row_gradients: Callable[..., tuple[Tensor, Tensor]]
    compiled: bool


EAGER = Kernels(quantized, flat_gradients, row_gradients, compiled=False)
_active = EAGER


def active(x: Tensor) -> Kernels:
    """The kernels for a tensor.

    Compiled ones keep more digits than bfloat16 between operations, and are not for it; nor for small tensors, which
    they do not speed up, and whose dimensions of size 1 the compiler treats apart.
    """
    # Sizes are asked last: what asks becomes a condition of a program that torch.export makes.
    return _active if _active.compiled and x.dtype == torch.float32 and x.numel() >= _SMALLEST else EAGER


@contextmanager
def compiled_kernels(wanted: bool = True, device: str = "cpu") -> Iterator[bool]:
    """Computes with compiled kernels while open, where they can be compiled; says so where not.

    The results of the forward pass do not depend on it; gradients of scales are sums in another order.

    Args:
        wanted: False changes nothing.
        device: Where tensors are: `cpu` or `cuda`.

    Yields:
        Whether the kernels are compiled.
    """
    global _active
    before = _active
    if wanted:
        _active = _compiled(device)
    try:
        yield _active.compiled
    finally:
        _active = before


_made: dict[str, Kernels] = {}


def _compiled(device: str) -> Kernels:
    """The compiled kernels of a device, made once per process; the separate operations where that fails."""
    if device not in _made:
        _made[device] = _make(device)
    return _made[device]


def _make(device: str) -> Kernels:
    try:
        # In a process of its own, which can be stopped and may crash; the cache on disk brings the result.
        command = [sys.executable, "-m", "spos_quant.quant.kernels", device]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
        from torch._inductor import config

        made = _compile()
        with config.patch(compile_threads=1):  # all is in the cache: no pool of processes that would outlive the work
            _run_once(made, device)
        return made
    except subprocess.TimeoutExpired:
        why = f"it takes more than {COMPILE_SECONDS:.0f} s"
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.decode(errors="replace").splitlines() if line.strip()]
        why = lines[-1].strip()[:160] if lines else f"exit status {error.returncode}"
    except Exception as error:  # noqa: BLE001 - compilers fail in ways of their own
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}"
    remark(f"fake quantization runs uncompiled, which is slower: {why}")
    return EAGER


def _compile() -> Kernels:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    options: dict[str, Any] = {"cpp.dynamic_threads": True}  # the number of threads is the caller's, not the compiler's
    functions = (quantized, flat_gradients, row_gradients)
    forward, flat, rows = (cast(Any, torch.compile(f, dynamic=True, options=options)) for f in functions)
    return Kernels(forward, flat, rows, compiled=True)


def _run_once(kernels: Kernels, device: str) -> None:
    """Every kernel on every shape that it is used with, which compiles it."""
    for inference in (False, True):  # tensors of either mode have compiled code of their own
        with torch.inference_mode(inference):
            level = torch.tensor(1.0, device=device)
            for shape, scale in (((4_096,), level), ((64, 96), torch.ones(64, 1, device=device))):
                x = torch.ones(shape, device=device)
                kernels.quantized(x, scale, -level, level)
                if not inference:
                    gradient = kernels.flat_gradients if len(shape) == 1 else kernels.row_gradients
                    gradient(x, x, scale, -level, level, level)


if __name__ == "__main__":
    _run_once(_compile(), sys.argv[1])
