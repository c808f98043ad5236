"""The arithmetic of fake quantization as a few kernels, forward and backward, compiled if that pays.

As separate torch operations, divide, round, clamp and multiply are four passes over memory, and the backward pass is
three times as many. Compiled (TorchInductor: C++ on a CPU, Triton on a GPU) they are one loop each way. So are weight
statistics, and a residual sum with its ReLU and the following quantizer. There are two shapes: a tensor with one scale
is flat, a tensor with a scale per channel is `[C, n]`. Sizes and levels are arguments of the loops, so other layers,
widths and bit-widths need no recompilation. The kernels are compiled ahead of time, once per device and version of
torch, and kept in the user's cache folder.

    python -m spos_quant.quant.kernels cpu FOLDER        # compiles them into a folder
"""

from __future__ import annotations

import hashlib
import logging
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.progress import remark
from spos_quant.run_dir import cache_dir

COMPILE_SECONDS = 120.0
"""Time limit of the compilation. Beyond it the kernels run as separate torch operations."""
WORTH_COMPILING = 10_000_000
"""Pixels through a network from which on compilation pays: about eighty steps of 128 images of 32 x 32."""
LONG_ROW = 128
"""Weights per row from which on the compiled variance is used; rounding ties were seen up to 64."""
_SIZES = range(4_096, 2**31)
"""Elements of tensors that compiled kernels are used for: they do not speed up small ones, and index with 32 bits."""


def quantized(x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
    """`x` rounded to the levels `qmin`, ..., `qmax` times `scale`, in the shape of `x`.

    The order of operations is that of Brevitas's `IntQuant`, so the result is bit-identical.
    """
    return torch.clamp(torch.round(x / scale), qmin, qmax) * scale


def codes(x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
    """The integer codes that `quantized` rounds to, minus `qmin`, as uint8."""
    return (torch.clamp(torch.round(x / scale), qmin, qmax) - qmin).to(torch.uint8)


def gradients(
    upstream: Tensor, x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor, clipped: Tensor, floor: Tensor
) -> tuple[Tensor, Tensor]:
    """Straight-through gradients of `quantized` for `x` and, not yet summed per scale, for `scale`.

    Args:
        upstream: Gradient of the result.
        x: As in the forward pass, like the next three.
        scale: See `quantized`.
        qmin: See `quantized`.
        qmax: See `quantized`.
        clipped: 1 if values beyond the levels get a gradient too (weights), 0 if they get none (activations).
        floor: Values up to `floor` get no gradient: 0 if the quantizer absorbs a ReLU, minus infinity otherwise.
    """
    above = ~(x <= floor)  # unlike `x > floor`, passes NaN on
    ratio = torch.maximum(x, floor) / scale
    rounded = torch.round(ratio)
    code = torch.clamp(rounded, qmin, qmax)
    passes = ((code == rounded) | (clipped > 0)) & above
    inner = torch.where(passes, upstream * scale, 0.0)
    return inner / scale, upstream * code - inner * ratio / scale


def flat_gradients(
    upstream: Tensor, x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor, clipped: Tensor, floor: Tensor
) -> tuple[Tensor, Tensor]:
    """`gradients` of a tensor with one scale: `[n]` and a scalar."""
    for_x, for_scale = gradients(upstream, x, scale, qmin, qmax, clipped, floor)
    return for_x, for_scale.sum()


def row_gradients(
    upstream: Tensor, x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor, clipped: Tensor, floor: Tensor
) -> tuple[Tensor, Tensor]:
    """`gradients` of a tensor with one scale per row: `[C, n]` and `[C, 1]`."""
    for_x, for_scale = gradients(upstream, x, scale, qmin, qmax, clipped, floor)
    return for_x, for_scale.sum(1, keepdim=True)


def row_variances(x: Tensor) -> Tensor:
    """The unbiased variance of every row: `[C, n]` to `[C, 1]`."""
    return torch.var(x, 1, keepdim=True)


def _row_variances(x: Tensor) -> Tensor:
    """`row_variances` as loops that the compiler makes fast.

    On a CPU torch sums sequentially in float64. This sums in float64 too, but in another order. After rounding to
    float32 the results are equal, except for ties in short rows of numbers with few digits.
    """
    wide = x.to(torch.float64)
    from_mean = wide - wide.mean(1, keepdim=True)
    return ((from_mean * from_mean).sum(1, keepdim=True) / (x.shape[1] - 1)).to(x.dtype)


def deviation_gradients(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """`slope * x + offset * sign(x)` of `[C, n]` and two `[C, 1]`: the gradient of mean|x| and std|x| for `x`."""
    return slope * x + offset * torch.sign(x)


def sum_relu(x: Tensor, y: Tensor) -> Tensor:
    """`relu(x + y)` of two `[n]`."""
    return torch.relu(x + y)


def sum_levels(x: Tensor, y: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The sum `x + y` of two `[n]`, bounded below by `floor`, and `quantized` of the sum with one scale."""
    total = torch.maximum(x + y, floor)
    return total, quantized(total, scale, qmin, qmax)


def sum_gradients(
    for_total: Tensor,
    for_levels: Tensor,
    total: Tensor,
    scale: Tensor,
    qmin: Tensor,
    qmax: Tensor,
    clipped: Tensor,
    floor: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of `sum_levels`: one for both `x` and `y`, and one for `scale`.

    `for_total` is the gradient of the sum from its other readers; the other arguments are as in `gradients`.
    """
    through, for_scale = flat_gradients(for_levels, total, scale, qmin, qmax, clipped, floor)
    return torch.where(total <= floor, 0.0, for_total) + through, for_scale


@dataclass(frozen=True)
class Kernels:
    """The functions that quantizers compute with; all take contiguous tensors."""

    flat: Callable[..., Tensor]
    """`quantized` of a tensor with one scale: `[n]` and a scalar."""
    rows: Callable[..., Tensor]
    """`quantized` of a tensor with one scale per row: `[C, n]` and `[C, 1]`."""
    codes: Callable[..., Tensor]
    """`codes` of `[n]` and a scalar."""
    flat_gradients: Callable[..., tuple[Tensor, Tensor]]
    row_gradients: Callable[..., tuple[Tensor, Tensor]]
    variances: Callable[..., Tensor]
    """`row_variances`."""
    deviation_gradients: Callable[..., Tensor]
    sum_relu: Callable[..., Tensor]
    sum_levels: Callable[..., tuple[Tensor, Tensor]]
    sum_gradients: Callable[..., tuple[Tensor, Tensor]]
    compiled: bool
    device: torch.device | None = None
    """The device that compiled kernels are for."""


EAGER = Kernels(
    flat=quantized,
    rows=quantized,
    codes=codes,
    flat_gradients=flat_gradients,
    row_gradients=row_gradients,
    variances=row_variances,
    deviation_gradients=deviation_gradients,
    sum_relu=sum_relu,
    sum_levels=sum_levels,
    sum_gradients=sum_gradients,
    compiled=False,
)
_active = EAGER
_PLAIN = (Tensor, nn.Parameter)


def active(x: Tensor) -> Kernels:
    """The kernels for a tensor.

    Compiled kernels read memory, so they take no tensors on `meta` or another device, and no fake tensors of a trace.
    They take no bfloat16, because they keep more digits between operations than bfloat16 does.
    """
    ours = _active
    if not (ours.compiled and type(x) in _PLAIN and x.device == ours.device and x.dtype == torch.float32):
        return EAGER
    return ours if x.numel() in _SIZES else EAGER


@contextmanager
def compiled_kernels(wanted: bool = True, device: str = "cpu") -> Iterator[bool]:
    """Computes with compiled kernels while open; if compilation fails, reports it and computes without them.

    The forward pass is bit-identical with and without them; gradients of scales are summed in another order.

    Args:
        wanted: False changes nothing.
        device: Device of the tensors, for example `cpu`, `cuda` or `cuda:1`.

    Yields:
        Whether the kernels are compiled.
    """
    global _active
    before = _active
    if wanted:
        _active = _compiled(torch.device(device))
    try:
        yield _active.compiled
    finally:
        _active = before


_made: dict[str, Kernels] = {}


def _compiled(device: torch.device) -> Kernels:
    """The compiled kernels of a device, loaded once per process; `EAGER` if that fails."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    name = str(device)
    if name not in _made:
        _made[name] = _make(name)
    return _made[name]


def _make(device: str) -> Kernels:
    folder = cache_dir("kernels", _key(device))
    try:
        with suppress(Exception):  # absent or damaged: compile again
            return _load(device, folder)
        # In a separate process, which can be stopped and may crash.
        command = [sys.executable, "-m", "spos_quant.quant.kernels", device, str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
        return _load(device, folder)
    except subprocess.TimeoutExpired:
        why = f"compilation takes more than {COMPILE_SECONDS:.0f} s"
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.decode(errors="replace").splitlines() if line.strip()]
        why = lines[-1].strip()[:160] if lines else f"exit status {error.returncode}"
    except Exception as error:  # noqa: BLE001 - compilers raise exceptions of any type
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}"
    remark(f"fake quantization runs uncompiled, which is slower: {why}")
    return EAGER


def _key(device: str) -> str:
    """A hash of everything that compiled code depends on: this file, torch, and the device's instruction set."""
    chip = torch.cuda.get_device_name(device) if device.startswith("cuda") else torch.backends.cpu.get_cpu_capability()
    parts = (Path(__file__).read_text("utf-8"), torch.__version__, sys.version, platform.machine(), chip, device)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _load(device: str, folder: Path) -> Kernels:
    made: dict[str, Any] = {}
    for name in _loops(device):
        with _inductor() as inductor:
            kernel = inductor.CompiledArtifact.load(path=str(folder / f"{name}.bin"), format="binary")
        made[name] = _unpacked(kernel)
    return replace(EAGER, **made, compiled=True, device=torch.device(device))


def _unpacked(kernel: Callable[..., list[Tensor]]) -> Callable[..., Any]:
    """A compiled kernel that returns a single result as such, not in a list."""

    def call(*given: Tensor) -> Any:
        found = kernel(*given)
        return found if len(found) > 1 else found[0]

    return call


def _loops(device: str) -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    """The functions compiled for a device, and the shapes of their arguments."""
    loops: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
        "flat": (quantized, ("flat", "", "", "")),
        "rows": (quantized, ("rows", "scales", "", "")),
        "codes": (codes, ("flat", "", "", "")),
        "flat_gradients": (flat_gradients, ("flat", "flat", "", "", "", "", "")),
        "row_gradients": (row_gradients, ("rows", "rows", "scales", "", "", "", "")),
        "deviation_gradients": (deviation_gradients, ("rows", "scales", "scales")),
        "sum_relu": (sum_relu, ("flat", "flat")),
        "sum_levels": (sum_levels, ("flat", "flat", "", "", "", "")),
        "sum_gradients": (sum_gradients, ("flat", "flat", "flat", "", "", "", "", "")),
    }
    if device == "cpu":  # on other devices torch's variance is fast and sums in float32
        loops["variances"] = (_row_variances, ("rows",))
    return loops


def _compile(device: str, folder: Path) -> None:
    """Compiles every kernel for all sizes, without guards at each call."""
    many, rows = torch.export.Dim("many", min=2), torch.export.Dim("rows", min=2)
    sizes: dict[str, tuple[int, ...]] = {"flat": (4_093,), "rows": (61, 97), "scales": (61, 1), "": ()}
    free: dict[str, dict[int, Any]] = {"flat": {0: many}, "rows": {0: rows, 1: many}, "scales": {0: rows}, "": {}}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (function, shapes) in _loops(device).items():
        examples = tuple(torch.ones(sizes[shape], device=device) for shape in shapes)
        dims = (tuple(free[shape] for shape in shapes),)
        program = torch.export.export(_Module(function), examples, dynamic_shapes=dims)
        options = {"config_patches": {"cpp.dynamic_threads": True}}  # the caller sets the number of threads
        with _inductor() as inductor:
            made = inductor.standalone_compile(
                program.graph_module, list(examples), dynamic_shapes="from_graph", options=options
            )
            made.save(path=str(folder / f"{name}.bin"), format="binary")


class _Module(nn.Module):
    """Wraps a function as a module, which `torch.export` requires."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


@contextmanager
def _inductor() -> Iterator[Any]:
    """Torch's compiler, without log output and without a process pool that would outlive the work."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import torch._inductor as inductor

    with inductor.config.patch(compile_threads=1):
        yield inductor


if __name__ == "__main__":
    _compile(sys.argv[1], Path(sys.argv[2]))
