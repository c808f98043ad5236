"""Trains a subnet in an existing QAT loop for Brevitas models, and exports it with Brevitas and with spos_quant."""

import brevitas.nn as qnn
import numpy as np
import torch
import torch.nn.functional as F
from brevitas.export import export_onnx_qcdq
from torch import nn

import spos_quant as sq


def existing_qat_loop(model, x, y, steps):
    """A placeholder for any training loop over a module with Brevitas layers."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


# Four classes: the bright quadrant of a 12 x 12 image.
generator = torch.Generator().manual_seed(0)
y = torch.randint(4, (256,), generator=generator)
x = 0.3 * torch.rand(256, 1, 12, 12, generator=generator)
for image, label in zip(x, y.tolist(), strict=True):
    row, column = divmod(label, 2)
    image[:, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 0.5

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, 2, 1),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 16, 3, 2, 1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(144, 4),
)
# Brevitas' exporter needs consecutive integers; the default quantizer, `midrise`, has odd integers at 2 bits.
supernet = sq.quantize(model, x[:64], bits=[(2, 2), (4, 4)], quantizer="gaussian+pact")
# A random architecture that costs at most half of the most expensive one.
(architecture,) = supernet.sample(np.random.default_rng(0), 1, bitops_budget="50%")
subnet = supernet.subnet(architecture)

for name, layer in subnet.named_modules():
    if isinstance(layer, (qnn.QuantConv2d, qnn.QuantLinear)):
        print(f"layer {name}: {layer.weight_quant.bit_width():.0f} weight bits")
loss = existing_qat_loop(subnet, x, y, steps=60)
print(f"loss {loss:.3f}, accuracy {float((subnet.eval()(x).argmax(1) == y).float().mean()):.1%}")

# Brevitas' exporter; integer initializers need the TorchScript exporter.
export_onnx_qcdq(subnet, args=x[:1], export_path="brevitas.onnx", opset_version=17, dynamo=False)
written = sq.export_onnx(subnet, x, "checked.onnx")  # also QCDQ, for any batch size, checked in onnxruntime
print(f"checked.onnx: {written['bytes']:,} bytes, largest difference of a logit {written['max_abs_diff']:.2g}")
