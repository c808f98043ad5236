"""`sq.export_program`: a model as a `torch.export` program of standard operators only."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from spos_quant.errors import ExportError


def export_program(model: nn.Module, example: Tensor) -> ExportedProgram:
    """A Brevitas or float model as a program of torch's own operators, for `torch.export.save` and its readers.

    Args:
        model: Is not changed; it is exported in evaluation mode.
        example: A batch `[N, ...]` of at least two images; the program takes any batch size from 2 on.

    Returns:
        The program; `program.module()(x)` gives the model's outputs.

    Raises:
        ExportError: the example does not fit the model, or `torch.export` cannot trace its code.
    """
    made = copy.deepcopy(model).eval()
    for module in made.modules():
        # Brevitas wraps the output of quantizers; the wrapper reads tensor values, which a trace does not have.
        if hasattr(module, "skip_create_quant_tensor"):
            module.skip_create_quant_tensor = True  # type: ignore[assignment]
    if len(example) < 2:
        raise ExportError(f"expected an example of at least two images, got {len(example)}: torch fixes a batch of one")
    try:
        with torch.no_grad():
            return torch.export.export(made, (example,), dynamic_shapes=({0: Dim("n", min=2)},))
    except Exception as error:  # noqa: BLE001 - torch.export raises any exception of the traced code
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error) else type(error).__name__
        raise ExportError(f"torch.export cannot follow this model: {why[:300]}") from None
