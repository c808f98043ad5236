"""Quantizes and searches a timm model. Needs `timm`; weights are random, so nothing is downloaded."""

import timm
import torch

import spos_quant as sq

torch.manual_seed(0)
model = timm.create_model("resnet10t", pretrained=False, num_classes=10)
x = torch.randn(16, 3, 32, 32)

supernet = sq.quantize(
    model,
    x,
    bits=[(2, 2), (4, 4), (8, 8)],
    bits_per="block",  # the layers of one residual block share their bits
    keep_float=["conv1.*", "fc"],  # timm's stem has three convolutions
    overrides={"layer4.0": {"bits": [(4, 4), (8, 8)]}},
)
for axis in supernet.space.axes:
    print(f"{axis.name}: {axis.candidates}")
print(f"{supernet.space.size} architectures")

# Train the supernet here (see plain_pytorch.py). Weights are random, so the score is the closeness to the float model.
with torch.no_grad():
    float_logits = model.eval()(x)
result = sq.search(
    supernet,
    evaluate=lambda path: -float((path(x) - float_logits).square().mean()),
    recalibrate=None,  # keeps the BatchNorm statistics of the float model
    config=sq.SearchConfig(population=6, generations=2, parents=3, crossover=3, mutation=2),
    bitops_budget="w4a4",
)
print(f"best {supernet.space.describe(result.best)}")
for architecture, cost, score in result.front:
    print(f"  {supernet.space.encode(architecture)}: {cost:,} BitOps, squared error {-score:.3g}")
found = sq.measure(supernet.subnet(result.best), x)
print(f"measured from the model's own layers: {found['bitops']:,} BitOps, {found['weight_bytes']:,} weight bytes")
