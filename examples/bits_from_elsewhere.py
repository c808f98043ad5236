"""A table of bits per layer that another tool made becomes a bit configuration, and a model with those bits."""

import json
from pathlib import Path

import torch
from torch import nn

import spos_quant as sq

# What the other tool says: (weight bits, bits of the layer's input) by module name; None is float.
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

# The format is published as a JSON schema: spos_quant/space/bit-config.schema.json.
config = {
    "format": "spos-quant/bit-config/1",
    "model": "my-cnn",
    "input": [3, 16, 16],
    # A tool that counts the bits of a layer's OUTPUT needs them moved to the layer that reads it.
    "activation_bits_at": "layer input",
    "layers": {name: {"weight_bits": w, "act_bits": a} for name, (w, a) in TABLE.items()},
}
Path("elsewhere.bits.json").write_text(json.dumps(config, indent=1))

quantized = sq.apply_bits(model, "elsewhere.bits.json", x)  # a mapping does as well
found = sq.measure(quantized, x)
for layer in found["layers"]:
    print(f"layer {layer['name']}: w{layer['weight_bits']} a{layer['act_bits']}, {layer['bitops']:,} BitOps")
print(f"{found['bitops']:,} BitOps, {found['weight_bytes']:,} weight bytes")

with torch.no_grad():
    difference = (quantized.eval()(x) - model.eval()(x)).abs().max()
print(f"largest difference of a logit from float, before any retraining: {float(difference):.3g}")
