"""Converts a table of bits per layer from another tool to a bit configuration, and applies it to a model."""

import json
from pathlib import Path

import torch
from torch import nn

import spos_quant as sq

# Output of the other tool: module name -> (weight bits, bits of the layer's input); None is float.
TABLE = {"0": (None, None), "2": (4, 4), "4": (2, 4), "7": (8, 8)}

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3, 2, 1),
    nn.ReLU(),
    nn.Conv2d(16, 16, 3, 2, 1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(256, 10),
)
x = torch.rand(32, 3, 16, 16)

# The JSON schema of the format is spos_quant/space/bit-config.schema.json.
config = {
    "format": "spos-quant/bit-config/1",
    "model": "my-cnn",
    "input": [3, 16, 16],
    # If a tool gives the bits of a layer's OUTPUT, assign them to the layer that reads this output.
    "activation_bits_at": "layer input",
    "layers": {name: {"weight_bits": w, "act_bits": a} for name, (w, a) in TABLE.items()},
}
Path("elsewhere.bits.json").write_text(json.dumps(config, indent=1))

quantized = sq.apply_bits(model, "elsewhere.bits.json", x)  # also accepts a mapping
found = sq.measure(quantized, x)
for layer in found["layers"]:
    print(f"layer {layer['name']}: w{layer['weight_bits']} a{layer['act_bits']}, {layer['bitops']:,} BitOps")
print(f"{found['bitops']:,} BitOps, {found['weight_bytes']:,} weight bytes")

with torch.no_grad():
    difference = (quantized.eval()(x) - model.eval()(x)).abs().max()
print(f"largest difference of a logit from float, before any retraining: {float(difference):.3g}")
