"""The cost of any model, measured on its own layers: bits from the Brevitas modules, shapes from a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spos_quant.cost.rows import LayerRow, summary
from spos_quant.errors import ModelError
from spos_quant.quant.static import is_quant_layer, read_bits
from spos_quant.space.shapes import LayerShape

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def measure(model: nn.Module, example: Tensor | Sequence[Any]) -> dict[str, Any]:
    """The cost of a model for one image, with the keys of `spos-quant cost --json`.

    Brevitas layers count towards `bitops`, float operands with 32 bits; a plain torch layer counts as kept float.
    `bitops` is null if no layer counts.

    Args:
        model: Any float or Brevitas model; it is run once, in evaluation mode, and then restored.
        example: A batch `[N, ...]` that fits the model, or a sequence of arguments; costs are per image.

    Raises:
        ModelError: the example does not fit the model.
    """
    found: dict[nn.Module, LayerRow] = {}
    names = {module: name for name, module in model.named_modules()}

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        row = _row(names[module], module, inputs[0], output)
        if module in found:  # a layer that runs several times: its multiply-adds add up
            shape = found[module].shape
            row = LayerRow(
                row.name,
                row.kind,
                LayerShape(shape.macs + row.shape.macs, shape.weights, shape.biases, shape.out_channels),
                row.weight_bits,
                row.act_bits,
                row.counted,
            )
        found[module] = row

    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        for module in names:
            if isinstance(module, _LAYERS):
                stack.callback(module.register_forward_hook(hook).remove)
        # torch's counter tracks modules through autograd and fails on parameters without it
        stack.enter_context(torch.enable_grad())
        model.eval()
        try:
            with counter:
                model(*(x[:1] if isinstance(x, Tensor) and x.dim() else x for x in inputs))
        except (RuntimeError, ValueError, TypeError) as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
            raise ModelError(f"an example of shape {shapes} does not fit the model: {error}") from None
        finally:
            for module, mode in training.items():
                module.training = mode
    rows = list(found.values())
    other = counter.get_total_flops() // 2 - sum(row.shape.macs for row in rows)
    nothing_counts = not any(row.counted for row in rows)
    return summary(rows, space=None, architecture=None, full_precision=nothing_counts, other_macs=max(other, 0))


def _row(name: str, module: Any, x: Any, output: Any) -> LayerRow:
    out = output.value if hasattr(output, "value") else output
    weight = module.weight
    out_channels = getattr(module, "out_channels", None) or module.out_features
    # Over the whole batch, which is one image: the model may have split it into a batch of windows.
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        macs = x.numel() * weight[0].numel()
    else:
        macs = out.numel() * (weight.numel() // out_channels)
    biases = 0 if module.bias is None else module.bias.numel()
    kind = next(base.__name__ for base in type(module).__mro__ if base in _LAYERS)
    shape = LayerShape(macs, weight.numel(), biases, out_channels)
    return LayerRow(name, kind, shape, *_bits(module, x), is_quant_layer(module))


def _bits(module: nn.Module, x: Any) -> tuple[int | None, int | None]:
    """Weight and input bits; in stock Brevitas models, layers without an input quantizer read quantized tensors."""
    weight, act = read_bits(module)
    given = getattr(x, "bit_width", None)
    if act is None and given is not None and is_quant_layer(module):
        act = round(float(given))
    return weight, act
